-- Sums of usage, so that a year of it is added up at once: by month, and by day or month and model for all keys together. They get each batch in
-- the transaction in which the table usage gets it. What a replica of an older Modelgate counts comes into them when they are
-- summed up anew, once a day.
CREATE TABLE usage_months (
    month TEXT NOT NULL,
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
    cost BIGINT NOT NULL,
    last_used BIGINT NOT NULL,
    PRIMARY KEY (key_name, month, model, consumer)
);
CREATE INDEX usage_months_month ON usage_months (month);
-- Names of keys and consumers are empty in these two.
CREATE TABLE usage_models (
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
    cost BIGINT NOT NULL,
    last_used BIGINT NOT NULL,
    PRIMARY KEY (key_name, day, model, consumer)
);
CREATE INDEX usage_models_day ON usage_models (day);
CREATE TABLE usage_model_months (
    month TEXT NOT NULL,
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
    cost BIGINT NOT NULL,
    last_used BIGINT NOT NULL,
    PRIMARY KEY (key_name, month, model, consumer)
);
CREATE INDEX usage_model_months_month ON usage_model_months (month);
INSERT INTO usage_months
SELECT substr(day, 1, 7), key_name, consumer, model, CAST(sum(requests) AS BIGINT), CAST(sum(refused) AS BIGINT),
    CAST(sum(errors) AS BIGINT), CAST(sum(aborted) AS BIGINT), CAST(sum(milliseconds) AS BIGINT), CAST(sum(prompt) AS BIGINT),
    CAST(sum(cached) AS BIGINT), CAST(sum(completion) AS BIGINT), CAST(sum(exact) AS BIGINT), CAST(sum(measured) AS BIGINT),
    CAST(sum(tokens) AS BIGINT), CAST(sum(cost) AS BIGINT), max(last_used)
FROM usage GROUP BY substr(day, 1, 7), key_name, consumer, model;
INSERT INTO usage_models
SELECT day, '', '', model, CAST(sum(requests) AS BIGINT), CAST(sum(refused) AS BIGINT),
    CAST(sum(errors) AS BIGINT), CAST(sum(aborted) AS BIGINT), CAST(sum(milliseconds) AS BIGINT), CAST(sum(prompt) AS BIGINT),
    CAST(sum(cached) AS BIGINT), CAST(sum(completion) AS BIGINT), CAST(sum(exact) AS BIGINT), CAST(sum(measured) AS BIGINT),
    CAST(sum(tokens) AS BIGINT), CAST(sum(cost) AS BIGINT), max(last_used)
FROM usage GROUP BY day, model;
INSERT INTO usage_model_months
SELECT substr(day, 1, 7), '', '', model, CAST(sum(requests) AS BIGINT), CAST(sum(refused) AS BIGINT),
    CAST(sum(errors) AS BIGINT), CAST(sum(aborted) AS BIGINT), CAST(sum(milliseconds) AS BIGINT), CAST(sum(prompt) AS BIGINT),
    CAST(sum(cached) AS BIGINT), CAST(sum(completion) AS BIGINT), CAST(sum(exact) AS BIGINT), CAST(sum(measured) AS BIGINT),
    CAST(sum(tokens) AS BIGINT), CAST(sum(cost) AS BIGINT), max(last_used)
FROM usage GROUP BY substr(day, 1, 7), model;
