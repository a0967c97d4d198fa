-- Servers that operators have withdrawn by hand: which, until the end of which run (kind drain) or until they are resumed (kind
-- pause), by whom, and when, in milliseconds since 1970. The id of a server is the same in every Modelgate.
CREATE TABLE cordons (
    server TEXT PRIMARY KEY NOT NULL,
    kind TEXT NOT NULL,
    run TEXT NOT NULL,
    operator TEXT NOT NULL,
    set_at BIGINT NOT NULL
);
