-- The names of models that were ready lately, and when, in milliseconds since 1970.
CREATE TABLE model_names (
    name TEXT PRIMARY KEY NOT NULL,
    seen BIGINT NOT NULL
);
