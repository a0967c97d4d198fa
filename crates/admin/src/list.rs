//! Long lists, searched and paginated on the server.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// How many rows a page has.
pub(crate) const ROWS: usize = 50;

/// Which part of a list a page shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paging {
    /// The page, from 1.
    pub(crate) page: usize,
    /// How many pages there are; at least one.
    pub(crate) pages: usize,
    /// How many rows there are on all pages.
    pub(crate) rows: usize,
    /// The query of the list's URL without the page; ends in `&` unless it is empty.
    pub(crate) query: String,
}

impl Paging {
    /// The wanted page, or the last one if there are fewer pages. `filters` are the other parts of the query.
    pub(crate) fn new(rows: usize, wanted: usize, filters: &[(&str, &str)]) -> Self {
        let pages = rows.div_ceil(ROWS).max(1);
        let given = filters.iter().filter(|(_, value)| !value.is_empty());
        let part = |(name, value): &(&str, &str)| format!("{name}={}&", encode(value));
        Self { page: wanted.clamp(1, pages), pages, rows, query: given.map(part).collect() }
    }

    /// The rows of the page.
    pub(crate) fn cut<T>(&self, rows: impl IntoIterator<Item = T>) -> Vec<T> {
        rows.into_iter().skip((self.page - 1) * ROWS).take(ROWS).collect()
    }

    /// The range of rows, for people.
    pub(crate) fn range(&self) -> String {
        use crate::format::count;
        let first = (self.page - 1) * ROWS + 1;
        match self.rows {
            0 => "none".into(),
            rows => format!(
                "{}–{} of {}",
                count(first as u64),
                count((first + ROWS - 1).min(rows) as u64),
                count(rows as u64)
            ),
        }
    }

    /// The link to a page.
    pub(crate) fn link(&self, page: &usize) -> String {
        format!("?{}page={page}", self.query)
    }

    /// The page before, if there is one.
    pub(crate) fn previous(&self) -> Option<usize> {
        (self.page > 1).then(|| self.page - 1)
    }

    /// The page after, if there is one.
    pub(crate) fn next(&self) -> Option<usize> {
        (self.page < self.pages).then(|| self.page + 1)
    }
}

/// Encodes text for a path or a query.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Whether one of the texts contains the needle, ignoring case.
pub(crate) fn contains<'t>(needle: &str, texts: impl IntoIterator<Item = &'t str>) -> bool {
    let needle = needle.trim().to_ascii_lowercase();
    needle.is_empty() || texts.into_iter().any(|text| text.to_ascii_lowercase().contains(&needle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_its_part_of_a_list() {
        let paging = Paging::new(101, 2, &[("q", "a&b"), ("state", "")]);
        assert_eq!((paging.page, paging.pages, paging.range()), (2, 3, "51–100 of 101".into()));
        assert_eq!(paging.cut(0..101), (50..100).collect::<Vec<_>>());
        assert_eq!(paging.link(&3), "?q=a%26b&page=3");
        assert_eq!((paging.previous(), paging.next()), (Some(1), Some(3)));
    }

    #[test]
    fn a_page_that_is_not_there_is_the_nearest_one() {
        let paging = Paging::new(101, 9, &[]);
        assert_eq!((paging.page, paging.next(), paging.range()), (3, None, "101–101 of 101".into()));
        let none = Paging::new(0, 0, &[]);
        assert_eq!((none.page, none.pages, none.previous(), none.range()), (1, 1, None, "none".into()));
    }

    #[test]
    fn searching_does_not_mind_the_case() {
        assert!(contains(" LLaMA", ["qwen", "Meta/Llama-3"]));
        assert!(contains("", [""; 0]));
        assert!(!contains("x", ["abc"]));
    }
}
