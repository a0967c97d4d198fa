-- Usage as servers and Traefik have told it. All numbers count from 0; a replica of an older Modelgate that is still running
-- leaves them at that.
--
-- Requests: those that the server refused or never got; those whose client went away; how long the settled ones took in all.
ALTER TABLE usage ADD COLUMN errors BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN aborted BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN milliseconds BIGINT NOT NULL DEFAULT 0;
-- Tokens by what they were for; cached ones are among those of prompts. Older rows have only their sum.
ALTER TABLE usage ADD COLUMN prompt BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN cached BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN completion BIGINT NOT NULL DEFAULT 0;
-- The same tokens by how well they are known. Those that are only estimated are in the column tokens, where all of them were.
ALTER TABLE usage ADD COLUMN exact BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN measured BIGINT NOT NULL DEFAULT 0;

-- The same by hour, for some weeks.
CREATE TABLE usage_hours (
    -- When it began, in seconds since 1970.
    hour BIGINT NOT NULL,
    -- Its day, in the time zone of that time.
    day TEXT NOT NULL,
    key_name TEXT NOT NULL,
    consumer TEXT NOT NULL,
    model TEXT NOT NULL,
    requests BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    aborted BIGINT NOT NULL,
    milliseconds BIGINT NOT NULL,
    prompt BIGINT NOT NULL,
    cached BIGINT NOT NULL,
    completion BIGINT NOT NULL,
    exact BIGINT NOT NULL,
    measured BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    last_used BIGINT NOT NULL,
    PRIMARY KEY (key_name, hour, model, consumer)
);
CREATE INDEX usage_hours_day ON usage_hours (day);
