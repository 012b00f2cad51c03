"use strict";
// What a plain page cannot do: stay true without reloading, lead from Airflow's frame to Airflow itself, and send an act
// once.

const main = document.getElementById("main");
const stale = document.getElementById("stale");
const seconds = Number(document.body.dataset.live || 0);
let etag = null;

/** Whether somebody is at something that a fresh page would disturb. */
function busy() {
  const at = document.activeElement;
  const selected = getSelection();
  return document.hidden || (at && at.matches("input, select, textarea")) || (selected && !selected.isCollapsed);
}

/** Ask for this page again and change only what differs: focus, scroll and what was opened stay. */
async function refresh() {
  if (busy()) return;
  let answer;
  try {
    const headers = etag ? { "If-None-Match": etag } : {};
    answer = await fetch(location.href, { headers, cache: "no-store", signal: AbortSignal.timeout(30_000) });
  } catch {
    stale.hidden = false;
    return;
  }
  if (answer.status === 401) location.reload();
  stale.hidden = answer.ok || answer.status === 304;
  if (!answer.ok) return;
  etag = answer.headers.get("ETag");
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
  if (busy()) return;
  Idiomorph.morph(main, [...fresh.childNodes], {
    morphStyle: "innerHTML",
    callbacks: { beforeAttributeUpdated: (name, node) => !(name === "open" && node.matches("details")) },
  });
  main.dispatchEvent(new CustomEvent("refreshed", { bubbles: true }));
}

if (seconds > 0) {
  const next = async () => {
    try {
      await refresh();
    } finally {
      setTimeout(next, seconds * 1000);
    }
  };
  setTimeout(next, seconds * 1000);
  document.addEventListener("visibilitychange", refresh);
}

// Airflow shows us in a frame that may neither lead its window elsewhere nor open another one; Airflow's own page may.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-airflow], a[target=_blank]");
  if (!link || window.top === window.self || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (link.target === "_blank") {
    window.parent.open(link.href, "_blank", "noopener,noreferrer");
    return;
  }
  const { pathname, search, hash } = new URL(link.href);
  window.parent.history.pushState({}, "", pathname + search + hash);
  window.parent.dispatchEvent(new PopStateEvent("popstate", { state: {} }));
});

// An act may take a while: it is sent once, and its button says that it was. Going back finds the form usable again.
document.addEventListener("submit", (event) => {
  const button = event.target.querySelector("button:not([disabled])");
  if (event.target.method !== "post" || !button) return;
  button.disabled = true;
  button.dataset.label = button.textContent;
  button.textContent = `${button.textContent} …`;
});
addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("button[data-label]")) {
    button.disabled = false;
    button.textContent = button.dataset.label;
    delete button.dataset.label;
  }
});
