-- One row per scheduled flight: who gets one of the day's standby crews is decided at six in the evening before.
-- Label and its publication are the flights' own; features come from the views of flight_delay_v1, as known by then.
SELECT flight_id, carrier, origin, dest, scheduled_departure,
    (day::TIMESTAMP - INTERVAL 6 HOUR) AT TIME ZONE 'America/New_York' AS roster_closes_at,
    late, label_published_at
FROM flown ORDER BY flight_id
