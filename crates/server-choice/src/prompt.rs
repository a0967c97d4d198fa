//! A prompt as a row of blocks, each known by a hash of itself and of everything before it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::adapters::AdapterId;

/// The length of a block: some 128 tokens of English. Servers keep blocks of 16 tokens and more; the difference is at most one
/// of these blocks for each prompt.
pub const BLOCK_BYTES: usize = 512;

/// How many blocks of a prompt are looked at: 2 MB. What comes after them counts as not in any cache.
pub const MAX_BLOCKS: usize = 4_096;

/// Makes the hashes of a prompt.
///
/// The parts must come in the order in which the server reads them: tools, system prompt, messages. Only whole blocks have a
/// hash, because a server's cache has only whole blocks, too.
#[derive(Debug)]
pub struct PromptHasher {
    chain: u64,
    hashes: Vec<u64>,
    /// The beginning of a block, shorter than [`BLOCK_BYTES`].
    open: Vec<u8>,
    bytes: usize,
}

impl PromptHasher {
    /// Begins a prompt for a model, and for an adapter (`None`: the model itself): their caches share nothing.
    ///
    /// `seed` must be secret, so that nobody can make prompts whose hashes collide. Where it differs for each consumer, the time
    /// in which one is answered says nothing about the prompts of another, as far as our choice goes.
    pub fn new(seed: u64, model: &str, adapter: Option<&str>) -> Self {
        let model = xxh3_64_with_seed(model.as_bytes(), seed);
        // A seed of its own, so that no adapter is taken for none.
        let chain = adapter.map_or(model, |name| xxh3_64_with_seed(name.as_bytes(), model.wrapping_add(1)));
        Self { chain, hashes: Vec::new(), open: Vec::new(), bytes: 0 }
    }

    /// Adds the next part of the prompt.
    pub fn add(&mut self, mut part: &[u8]) {
        self.bytes += part.len();
        if !self.open.is_empty() {
            let (first, rest) = part.split_at(part.len().min(BLOCK_BYTES - self.open.len()));
            self.open.extend_from_slice(first);
            part = rest;
            if self.open.len() < BLOCK_BYTES {
                return;
            }
            let block = std::mem::take(&mut self.open);
            self.close(&block);
        }
        let (blocks, rest) = part.as_chunks::<BLOCK_BYTES>();
        for block in blocks {
            if self.hashes.len() == MAX_BLOCKS {
                return;
            }
            self.close(block);
        }
        self.open.extend_from_slice(rest);
    }

    fn close(&mut self, block: &[u8]) {
        if self.hashes.len() < MAX_BLOCKS {
            self.chain = xxh3_64_with_seed(block, self.chain);
            self.hashes.push(self.chain);
        }
    }

    /// The hashes of all whole blocks, and the length of the prompt in bytes.
    pub fn finish(self) -> (Vec<u64>, usize) {
        (self.hashes, self.bytes)
    }
}

/// What a choice needs to know about a prompt.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'h> {
    /// From [`PromptHasher::finish`].
    pub blocks: &'h [u64],
    /// The length of the whole prompt in tokens, as well as it is known.
    pub tokens: u32,
    /// The number of tokens in a block.
    pub block_tokens: f32,
    /// The expected length of the answer in tokens: it takes room in the server's cache.
    pub answer_tokens: u32,
    /// The adapter that it is for; `None`: the model itself.
    pub adapter: Option<AdapterId>,
}

impl Prompt<'_> {
    /// The tokens of the first `blocks` blocks.
    pub(crate) fn tokens_of(&self, blocks: usize) -> u32 {
        ((blocks as f32 * self.block_tokens) as u32).min(self.tokens)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BLOCK_BYTES, MAX_BLOCKS, PromptHasher};

    fn hashes(model: &str, adapter: Option<&str>, parts: &[&[u8]]) -> Vec<u64> {
        let mut hasher = PromptHasher::new(7, model, adapter);
        parts.iter().for_each(|part| hasher.add(part));
        hasher.finish().0
    }

    #[test]
    fn models_adapters_and_seeds_share_nothing() {
        let text = [b'a'; BLOCK_BYTES];
        let of_model = hashes("m", None, &[&text]);
        assert_eq!(of_model.len(), 1);
        assert_ne!(of_model, hashes("n", None, &[&text]));
        assert_ne!(of_model, hashes("m", Some(""), &[&text]));
        assert_ne!(hashes("m", Some("a"), &[&text]), hashes("m", Some("b"), &[&text]));
        let mut other = PromptHasher::new(8, "m", None);
        other.add(&text);
        assert_ne!(of_model, other.finish().0);
    }

    #[test]
    fn a_prompt_without_end_has_a_bounded_number_of_blocks() {
        let mut hasher = PromptHasher::new(7, "m", None);
        for _ in 0..3 {
            hasher.add(&vec![b'a'; BLOCK_BYTES * MAX_BLOCKS + 1]);
        }
        let (hashes, bytes) = hasher.finish();
        assert_eq!((hashes.len(), bytes), (MAX_BLOCKS, 3 * (BLOCK_BYTES * MAX_BLOCKS + 1)));
    }

    proptest! {
        /// Where the parts of a prompt are cut makes no difference, and two prompts share exactly the blocks before the first
        /// byte in which they differ.
        #[test]
        fn hashes_are_those_of_the_shared_beginning(
            text in proptest::collection::vec(any::<u8>(), 0..4 * BLOCK_BYTES),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..5),
            changed in any::<proptest::sample::Index>(),
        ) {
            let whole = hashes("m", None, &[&text]);
            prop_assert_eq!(whole.len(), text.len() / BLOCK_BYTES);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            prop_assert_eq!(&whole, &hashes("m", None, &parts));
            if !text.is_empty() {
                let place = changed.index(text.len());
                let mut other = text.clone();
                other[place] ^= 1;
                let other = hashes("m", None, &[&other]);
                let shared = whole.iter().zip(&other).take_while(|(a, b)| a == b).count();
                prop_assert_eq!(shared, (place / BLOCK_BYTES).min(whole.len()));
            }
        }
    }
}
