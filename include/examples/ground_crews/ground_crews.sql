-- One row per airport and hour with a scheduled departure, decided at six in the evening before. The label counts the
-- flights that really left in that hour, delayed ones of earlier hours among them and cancelled ones not.
WITH left_in AS (
    SELECT origin, date_trunc('hour', scheduled_departure + to_minutes(dep_delay)) AS hour_at, count(*) AS departures
    FROM flown WHERE dep_delay IS NOT NULL GROUP BY ALL
)
SELECT f.origin || ' ' || strftime(f.day, '%Y-%m-%d') || ' ' || lpad(f.hour::VARCHAR, 2, '0') AS slot,
    f.origin, f.time_hour::TIMESTAMPTZ AS hour_at,
    (f.day::TIMESTAMP - INTERVAL 6 HOUR) AT TIME ZONE 'America/New_York' AS roster_closes_at,
    coalesce(any_value(l.departures), 0)::DOUBLE AS departures,
    any_value(f.label_published_at) AS label_published_at
FROM flown f LEFT JOIN left_in l ON l.origin = f.origin AND l.hour_at = f.time_hour::TIMESTAMPTZ
GROUP BY f.origin, f.day, f.hour, f.time_hour ORDER BY slot
