"""The secrets of docker-compose.yaml: ``python -m ratchet.stack.container_secrets <folder>`` makes what is missing.

Each folder below is a volume that only those services mount who need what is in it. Nothing is made anew but
certificates near their end; to renew a password, remove its files and start again.
"""

from __future__ import annotations

import base64
import secrets
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BROKERS = ("kafka-1", "kafka-2", "kafka-3")
PRINCIPALS = {"ratchet": "ratchet", "operator": "operator", "monitor": "operator", "audience": "operator"}
"""Whose certificates there are for Kafka, and in which folder; the last two are to be handed out."""
CERTIFICATE_DAYS = 730
RENEWED_DAYS = 60
"""A certificate is made anew this long before its end, whenever this step runs; its key stays, so that both fit."""
AUTHORITY_DAYS = 3650
READABLE = 0o444
"""Other containers have other users; who may read is decided by who mounts the volume."""

PASSWORDS: Mapping[str, Sequence[str]] = {
    "postgres": ("postgres",),
    "airflow": ("postgres", "ratchet"),
    "optuna": ("postgres", "ratchet"),
    "mlflow": ("postgres", "mlflow"),
    "components": ("postgres", "ratchet"),
    "redis": ("redis", "ratchet"),
    "admin": ("ratchet",),
    "grafana": ("grafana",),
    "metrics": ("prometheus", "ratchet"),
    "storage-id": ("storage", "ratchet", "mlflow"),
    "storage-secret": ("storage", "ratchet", "mlflow"),
    "api": ("ratchet",),
    "jwt": ("ratchet",),
}
"""The folders that have each password, the same in all of them. `postgres` is its superuser, who owns the ledger."""


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(content.encode() if isinstance(content, str) else content)
    draft.chmod(READABLE)
    draft.rename(path)


def _passwords(root: Path) -> None:
    for name, folders in PASSWORDS.items():
        files = [root / folder / name for folder in folders]
        kept = next((file.read_text() for file in files if file.exists()), None) or secrets.token_urlsafe(24)
        for file in files:
            if not file.exists():
                _write(file, kept)
        for former in set(root.glob(f"*/{name}")) - set(files):  # a service that an older version gave it to
            former.unlink()
    fernet = root / "ratchet" / "fernet"
    if not fernet.exists():
        _write(fernet, base64.urlsafe_b64encode(secrets.token_bytes(32)))
    redis = root / "redis" / "redis.conf"
    if not redis.exists():
        _write(redis, f"requirepass {(root / 'redis' / 'redis').read_text()}\n")
    cluster = root / "kafka" / "cluster"
    if not cluster.exists():
        _write(cluster, "R" + base64.urlsafe_b64encode(secrets.token_bytes(16)).decode()[1:22])


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _builder(common: str, issuer: str, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
    )


def _authority(root: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Kafka's own certificate authority; its key is where nobody but this step looks."""
    key_file, file = root / "authority" / "ca.key", root / "authority" / "ca.pem"
    if not key_file.exists() or not file.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        made = (
            _builder("ratchet-authority", "ratchet-authority", key, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write(key_file, _pem(key))
        _write(file, made.public_bytes(Encoding.PEM))
    return _private_key(key_file), x509.load_pem_x509_certificate(file.read_bytes())


def _private_key(file: Path) -> ec.EllipticCurvePrivateKey:
    loaded = load_pem_private_key(file.read_bytes(), password=None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{file} must be an elliptic curve key. Remove it and start again.")
    return loaded


def _ends(file: Path) -> datetime:
    return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc


def _certificates(root: Path, brokers: Sequence[str]) -> None:
    wanted = {"broker": ("kafka", tuple(brokers))} | {name: (folder, ()) for name, folder in PRINCIPALS.items()}
    authority, issuer = _authority(root)
    for name, (folder, hosts) in wanted.items():
        if not (trusted := root / folder / "ca.pem").exists():
            _write(trusted, issuer.public_bytes(Encoding.PEM))
        store, key_file = root / folder / f"{name}.store.pem", root / folder / f"{name}.key"
        if store.exists() and _ends(store) > datetime.now(UTC) + timedelta(days=RENEWED_DAYS):
            continue
        key = _private_key(key_file) if store.exists() else ec.generate_private_key(ec.SECP256R1())
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        builder = (
            _builder(name, "ratchet-authority", key, CERTIFICATE_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        signed = builder.sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM)
        _write(key_file, _pem(key))
        _write(root / folder / f"{name}.pem", signed)
        _write(store, _pem(key) + signed)


def make(root: Path, brokers: Sequence[str] = BROKERS) -> None:
    """Make what is missing below ``root``: passwords, and certificates for the brokers and each principal."""
    _passwords(root)
    _certificates(root, brokers)


def certificates(root: Path) -> dict[str, datetime]:
    """When each certificate ends, by its name below ``root``."""
    return {
        str(file.relative_to(root)): _ends(file) for file in sorted(root.glob("*/*.pem")) if file.suffixes == [".pem"]
    }


if __name__ == "__main__":
    made = Path(sys.argv[1])
    make(made)
    for certificate, end in certificates(made).items():
        print(f"{certificate} is good until {end:%Y-%m-%d}")
