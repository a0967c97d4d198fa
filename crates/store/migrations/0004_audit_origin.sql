-- From where somebody did it: the client's IP address; for a command line, which has none, the name of its host.
ALTER TABLE audit ADD COLUMN address TEXT;
ALTER TABLE audit ADD COLUMN host TEXT;
