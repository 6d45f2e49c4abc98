-- One row per aircraft and day: yesterday's row (`prior`) plus today's flights. An aircraft that did not fly keeps its row.
WITH today AS (
    SELECT
        tailnum,
        count(*) AS flights,
        count(arr_delay) AS arrivals,
        sum(arr_delay) AS arr_delay_sum,
        min(sched_dep_utc) AS first_seen
    FROM flights
    WHERE tailnum IS NOT NULL
    GROUP BY tailnum
),

totals AS (
    SELECT
        coalesce(prior.tailnum, today.tailnum) AS tailnum,
        coalesce(prior.flights, 0) + coalesce(today.flights, 0) AS flights,
        coalesce(prior.arrivals, 0) + coalesce(today.arrivals, 0) AS arrivals,
        coalesce(prior.arr_delay_sum, 0) + coalesce(today.arr_delay_sum, 0) AS arr_delay_sum,
        coalesce(prior.first_seen, today.first_seen) AS first_seen
    FROM prior
    FULL OUTER JOIN today ON prior.tailnum = today.tailnum
)

SELECT
    tailnum,
    flights,
    arrivals,
    arr_delay_sum,
    CAST(arr_delay_sum AS DOUBLE) / nullif(arrivals, 0) AS mean_arr_delay,
    first_seen
FROM totals
ORDER BY tailnum
