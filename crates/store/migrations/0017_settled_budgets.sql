-- What settled requests have cost of a budget, which is what a reset forgives, has a count of its own now. What was spent before is settled.
-- The last two digits of a subject tell what it counts: 78 to 7b what was taken of budgets, 96 to 99 what of it is settled.
INSERT INTO quota_counts (period, subject, used, batch)
SELECT
    period,
    substr(subject, 1, 64) || CASE substr(subject, 65, 2) WHEN '78' THEN '96' WHEN '79' THEN '97' WHEN '7a' THEN '98' ELSE '99' END,
    used,
    batch
FROM quota_counts
WHERE substr(subject, 65, 2) IN ('78', '79', '7a', '7b')
ON CONFLICT (period, subject) DO NOTHING;
