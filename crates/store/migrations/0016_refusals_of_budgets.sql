-- When the budget of an alert that was told has refused a request last, in milliseconds since 1970, and what was left of it then, in
-- units of 10⁻⁹; zeros if it has refused none lately. The alert stands for some time after a refusal, also over a restart.
ALTER TABLE told_alerts ADD COLUMN refused_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE told_alerts ADD COLUMN refused_with BIGINT NOT NULL DEFAULT 0;
