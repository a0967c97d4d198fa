//! What servers have counted beside what was settled, for those who show it.

use std::{fmt, sync::OnceLock};

use metering::{BookRow, Hour};

type RowsOfServer = Box<dyn Fn(&str) -> Vec<(Hour, BookRow)> + Send + Sync>;

/// The books of servers. They have one owner, which says how to read them.
#[derive(Default)]
pub struct BooksOfServers(OnceLock<RowsOfServer>);

impl BooksOfServers {
    /// From now on `rows` says what the books say about the server with a URL; later calls change nothing. It must not wait.
    pub fn are_kept(&self, rows: impl Fn(&str) -> Vec<(Hour, BookRow)> + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(rows));
    }

    /// The rows of the server with a URL, oldest first; none if it has no counters, or if nobody reads them.
    pub fn of(&self, url: &str) -> Vec<(Hour, BookRow)> {
        self.0.get().map_or_else(Vec::new, |rows| rows(url))
    }
}

impl fmt::Debug for BooksOfServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BooksOfServers")
    }
}
