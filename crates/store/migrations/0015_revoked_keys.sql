-- Keys that were deleted or replaced lately, by digest: so that operators learn who goes on using one. When, in milliseconds since 1970.
CREATE TABLE revoked_keys (
    sha256 TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    consumer TEXT NOT NULL,
    revoked_at BIGINT NOT NULL
);
CREATE INDEX revoked_keys_by_name ON revoked_keys (name);
-- The networks from which each key was used, with spaces between them; since when, and when it was used last (to about an hour).
CREATE TABLE key_networks (
    key_name TEXT PRIMARY KEY NOT NULL,
    networks TEXT NOT NULL,
    first_used BIGINT NOT NULL,
    last_used BIGINT NOT NULL
);
-- Those that were new, for as long as operators are told.
CREATE TABLE new_networks (
    key_name TEXT NOT NULL,
    network TEXT NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (key_name, network)
);
-- Until when some Modelgate has watched them.
CREATE TABLE networks_watched (
    only_row BIGINT PRIMARY KEY NOT NULL,
    watched_until BIGINT NOT NULL
);
