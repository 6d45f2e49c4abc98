-- One row per carrier and day. `flights` holds this day only; `airport_weather_at` answers for each flight's own instant.
WITH departures AS (
    SELECT
        carrier,
        tailnum,
        dep_delay,
        airport_weather_at(origin, sched_dep_utc) AS weather
    FROM flights
)

SELECT
    departures.carrier,
    count(*) AS flights,
    count(*) - count(departures.dep_delay) AS cancelled,
    avg(departures.dep_delay) AS mean_dep_delay,
    CAST(count(*) FILTER (WHERE departures.dep_delay >= 15) AS DOUBLE)
        / nullif(count(departures.dep_delay), 0) AS late_share,
    count(departures.weather['temp']) AS temp_readings,
    avg(departures.weather['temp']) AS mean_temp,
    count(*) FILTER (WHERE departures.weather['visib'] < 3) AS low_visibility_flights,
    avg(aircraft.seats) AS mean_seats,
    avg(date_part('year', $partition_start) - aircraft.year) AS mean_aircraft_age
FROM departures
LEFT JOIN aircraft ON departures.tailnum = aircraft.entity_id
GROUP BY departures.carrier
ORDER BY departures.carrier
