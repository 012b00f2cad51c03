-- What is known at six in the evening before (day - 6 hours): the timetable, out a month ahead; what became of days
-- published by then, the newest of which lies four days back (a day's outcomes are published two days after its end);
-- the weather observed at four in the afternoon, published at a quarter past five.
WITH left_in AS (
    SELECT origin, date_trunc('hour', scheduled_departure + to_minutes(dep_delay)) AS hour_at, count(*) AS departures
    FROM flown WHERE dep_delay IS NOT NULL GROUP BY ALL
),
slots AS (
    SELECT f.origin, f.day, f.hour, f.time_hour::TIMESTAMPTZ AS hour_at, count(*) AS scheduled,
        coalesce(any_value(l.departures), 0) AS departures,
        sum(f.dep_delay) AS minutes, count(f.dep_delay) AS flown,
        count(*) FILTER (f.carrier IN ('9E', 'EV', 'MQ', 'OO', 'YV')) / count(*) AS regional_share
    FROM flown f LEFT JOIN left_in l ON l.origin = f.origin AND l.hour_at = f.time_hour::TIMESTAMPTZ
    GROUP BY f.origin, f.day, f.hour, f.time_hour
),
around AS (
    SELECT *,
        coalesce(sum(scheduled) OVER before_1h, 0) AS scheduled_1h_before,
        coalesce(sum(scheduled) OVER before_3h, 0) AS scheduled_3h_before,
        coalesce(sum(scheduled) OVER after_1h, 0) AS scheduled_1h_after,
        sum(scheduled) OVER (PARTITION BY origin, day) AS scheduled_same_day,
        sum(departures) OVER week / sum(scheduled) OVER week AS left_per_scheduled_7d,
        any_value(departures) OVER week_ago AS departures_week_ago,
        sum(minutes) OVER newest / nullif(sum(flown) OVER newest, 0) AS minutes_late_newest_day
    FROM slots
    WINDOW
        before_1h AS (PARTITION BY origin ORDER BY hour_at
                      RANGE BETWEEN INTERVAL 1 HOUR PRECEDING AND INTERVAL 1 HOUR PRECEDING),
        before_3h AS (PARTITION BY origin ORDER BY hour_at
                      RANGE BETWEEN INTERVAL 3 HOUR PRECEDING AND INTERVAL 1 HOUR PRECEDING),
        after_1h AS (PARTITION BY origin ORDER BY hour_at
                     RANGE BETWEEN INTERVAL 1 HOUR FOLLOWING AND INTERVAL 1 HOUR FOLLOWING),
        week AS (PARTITION BY origin, hour ORDER BY day
                 RANGE BETWEEN INTERVAL 10 DAY PRECEDING AND INTERVAL 4 DAY PRECEDING),
        week_ago AS (PARTITION BY origin, hour ORDER BY day
                     RANGE BETWEEN INTERVAL 7 DAY PRECEDING AND INTERVAL 7 DAY PRECEDING),
        newest AS (PARTITION BY origin ORDER BY day
                   RANGE BETWEEN INTERVAL 4 DAY PRECEDING AND INTERVAL 4 DAY PRECEDING)
)
SELECT a.origin || ' ' || strftime(a.day, '%Y-%m-%d') || ' ' || lpad(a.hour::VARCHAR, 2, '0') AS slot,
    (a.day::TIMESTAMP - INTERVAL 6 HOUR) AT TIME ZONE 'America/New_York' AS roster_closes_at,
    a.origin AS airport, a.hour AS hour_of_day, isodow(a.day) AS weekday, a.scheduled,
    a.scheduled_1h_before::BIGINT AS scheduled_1h_before, a.scheduled_3h_before::BIGINT AS scheduled_3h_before,
    a.scheduled_1h_after::BIGINT AS scheduled_1h_after, a.scheduled_same_day::BIGINT AS scheduled_same_day,
    a.regional_share, a.left_per_scheduled_7d, a.departures_week_ago::DOUBLE AS departures_week_ago,
    a.minutes_late_newest_day,
    w.wind_speed AS wind_mph_before, w.visib AS visibility_miles_before, w.precip AS rain_inches_before,
    (a.day::TIMESTAMP - INTERVAL 6 HOUR) AT TIME ZONE 'America/New_York' AS known_at
FROM around a
LEFT JOIN raw_weather w ON w.origin = a.origin
    AND w.time_hour::TIMESTAMPTZ = (a.day::TIMESTAMP - INTERVAL 8 HOUR) AT TIME ZONE 'America/New_York'
ORDER BY slot
