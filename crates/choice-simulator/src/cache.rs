//! A server's memory for tokens: what requests under way need, and what earlier ones have left behind, the least recently used of
//! which makes room.

use std::collections::{HashMap, VecDeque};

/// The memory of one server, in blocks.
#[derive(Debug)]
pub struct PrefixCache {
    capacity: usize,
    blocks: HashMap<u64, Held>,
    /// Blocks that nobody uses, oldest first, with the time of their last use; those that were used again are skipped.
    unused: VecDeque<(u64, u64)>,
    unused_count: usize,
    /// Blocks of answers under way, and such as are not full: nobody else can use them.
    private: usize,
    uses: u64,
    /// Blocks that requests in the queue will have brought in.
    promised: HashMap<u64, u32>,
}

#[derive(Debug)]
struct Held {
    users: u32,
    last_use: u64,
}

impl PrefixCache {
    /// Memory for so many blocks.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            blocks: HashMap::new(),
            unused: VecDeque::new(),
            unused_count: 0,
            private: 0,
            uses: 0,
            promised: HashMap::new(),
        }
    }

    /// How many of these blocks are there, from the first on.
    pub fn cached(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.blocks.contains_key(block)).count()
    }

    /// How many will be there once what is in the queue has been read.
    pub fn promised(&self, blocks: &[u64]) -> usize {
        let will_be = |block: &u64| self.blocks.contains_key(block) || self.promised.contains_key(block);
        blocks.iter().take_while(|block| will_be(block)).count()
    }

    /// The share of the memory that requests under way need.
    pub fn used_share(&self) -> f64 {
        (self.blocks.len() - self.unused_count + self.private) as f64 / self.capacity as f64
    }

    /// A request with these blocks is in the queue.
    pub fn promise(&mut self, blocks: &[u64]) {
        blocks.iter().for_each(|block| *self.promised.entry(*block).or_default() += 1);
    }

    /// Takes memory for a request: its blocks, and `private` more. Returns how many of the blocks were there, or `None` if there
    /// is not enough memory now.
    pub fn take(&mut self, blocks: &[u64], private: usize) -> Option<usize> {
        let cached = self.cached(blocks);
        let revived = blocks[..cached].iter().filter(|block| self.blocks[block].users == 0).count();
        let needed = blocks.len() - cached + private;
        let in_use = self.blocks.len() - self.unused_count + self.private;
        if in_use + revived + needed > self.capacity {
            return None;
        }
        for block in blocks {
            if let Some(count) = self.promised.get_mut(block) {
                *count -= 1;
                if *count == 0 {
                    self.promised.remove(block);
                }
            }
            let before = self.blocks.get(block).map(|held| held.users);
            if before == Some(0) {
                self.unused_count -= 1;
            }
            self.blocks.insert(*block, Held { users: before.unwrap_or(0) + 1, last_use: 0 });
        }
        self.private += private;
        self.make_room();
        Some(cached)
    }

    /// A request has ended. Its blocks stay as long as there is room, and so does its answer.
    pub fn release(&mut self, blocks: &[u64], private: usize, answer: &[u64]) {
        self.private -= private;
        // What comes last goes first: without what is before it, it is of no use.
        for block in answer.iter().rev() {
            if !self.blocks.contains_key(block) {
                self.leave(*block);
            }
        }
        for block in blocks.iter().rev() {
            let held = self.blocks.get_mut(block).expect("blocks in use stay");
            held.users -= 1;
            if held.users == 0 {
                self.leave(*block);
            }
        }
        self.make_room();
    }

    /// Keeps a block that nobody uses.
    fn leave(&mut self, block: u64) {
        self.uses += 1;
        self.blocks.insert(block, Held { users: 0, last_use: self.uses });
        self.unused.push_back((block, self.uses));
        self.unused_count += 1;
    }

    fn make_room(&mut self) {
        while self.blocks.len() + self.private > self.capacity {
            let Some((block, use_time)) = self.unused.pop_front() else { return };
            if self.blocks.get(&block).is_some_and(|held| held.users == 0 && held.last_use == use_time) {
                self.blocks.remove(&block);
                self.unused_count -= 1;
            }
        }
    }
}
