//! The hash of a file and of its blocks in one pass: BLAKE3 is a tree, and the blocks are subtrees of it. The hash of the file is what `b3sum` says.

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::entry::{Hash, LARGE_BYTES, block_bytes};

/// So many zeros are hashed in one go, for holes.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Takes the content of one file from its beginning to its end.
#[derive(Debug)]
pub struct FileHasher(Way);

#[derive(Debug)]
enum Way {
    Plain(Box<Hasher>),
    Blocks(Box<Blocks>),
}

#[derive(Debug)]
struct Blocks {
    block_bytes: u64,
    /// Of the block that is being filled.
    hasher: Hasher,
    filled: u64,
    done: Vec<Hash>,
    /// The roots of the full subtrees to the left, the larger ones first: as many as the number of blocks has ones.
    stack: Vec<ChainingValue>,
}

impl FileHasher {
    /// For a file of about this size: a large one gets hashes of its blocks, whose size goes by it.
    #[must_use]
    pub fn new(size: u64) -> Self {
        if size < LARGE_BYTES { Self(Way::Plain(Box::default())) } else { Self::with_blocks(block_bytes(size)) }
    }

    fn with_blocks(block_bytes: u64) -> Self {
        let (done, stack) = (Vec::new(), Vec::new());
        Self(Way::Blocks(Box::new(Blocks { block_bytes, hasher: Hasher::new(), filled: 0, done, stack })))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.update_each(bytes, |_, _| {});
    }

    /// As [`FileHasher::update`]; `each` gets the number and the hash of every block that these bytes fill.
    pub fn update_each(&mut self, bytes: &[u8], each: impl FnMut(usize, &Hash)) {
        match &mut self.0 {
            Way::Plain(hasher) => {
                hasher.update(bytes);
            }
            Way::Blocks(blocks) => blocks.update(bytes, each),
        }
    }

    /// As many zeros.
    pub fn update_zeros(&mut self, mut count: u64) {
        while count > 0 {
            let some = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
            self.update(&ZEROS[..some]);
            count -= some as u64;
        }
    }

    /// The hash of the file, and of its blocks where it was large.
    #[must_use]
    pub fn finish(self) -> (Hash, Option<Vec<Hash>>) {
        match self.0 {
            Way::Plain(hasher) => (*hasher.finalize().as_bytes(), None),
            Way::Blocks(blocks) => {
                let (hash, blocks) = blocks.finish();
                (hash, Some(blocks))
            }
        }
    }
}

impl Blocks {
    fn update(&mut self, mut bytes: &[u8], mut each: impl FnMut(usize, &Hash)) {
        while !bytes.is_empty() {
            if self.filled == self.block_bytes {
                self.close();
            }
            let room = usize::try_from(self.block_bytes - self.filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.hasher.update(now);
            self.filled += now.len() as u64;
            bytes = later;
            if self.filled == self.block_bytes {
                let hash = self.hasher.finalize_non_root();
                each(self.done.len(), &hash);
                self.done.push(hash);
            }
        }
    }

    /// More is to come, so the block is a subtree of its own, and so is each pair of equal ones.
    fn close(&mut self) {
        let mut root = self.done.last().copied().unwrap_or_default();
        let count = self.done.len() as u64;
        for _ in 0..count.trailing_zeros() {
            if let Some(left) = self.stack.pop() {
                root = merge_subtrees_non_root(&left, &root, Mode::Hash);
            }
        }
        self.stack.push(root);
        self.hasher = Hasher::new();
        self.hasher.set_input_offset(count * self.block_bytes);
        self.filled = 0;
    }

    fn finish(mut self) -> (Hash, Vec<Hash>) {
        if self.filled > 0 && self.filled < self.block_bytes {
            self.done.push(self.hasher.finalize_non_root());
        }
        let mut right = self.done.last().copied().unwrap_or_default();
        // A pair that closes with the last block is merged here, as the others are.
        let root = match self.stack.first().copied() {
            None => *self.hasher.finalize().as_bytes(),
            Some(first) => {
                for left in self.stack.drain(1..).rev() {
                    right = merge_subtrees_non_root(&left, &right, Mode::Hash);
                }
                *merge_subtrees_root(&first, &right, Mode::Hash).as_bytes()
            }
        };
        (root, self.done)
    }
}

/// The hash of one block alone, as [`FileHasher`] gives it: `index` counts blocks of `block_bytes`.
#[must_use]
pub fn block_hash(index: u64, block_bytes: u64, content: &[u8]) -> Hash {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(index * block_bytes);
    hasher.update(content);
    hasher.finalize_non_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 4096;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect()
    }

    #[test]
    fn hash_of_the_blocks_is_that_of_the_file_at_every_length_around_a_block() {
        let all = content(20 * BLOCK);
        for blocks in 0..20 {
            for more in [1, 2, 1023, 1024, 1025, BLOCK - 1, BLOCK] {
                let content = &all[..blocks * BLOCK + more];
                let mut hasher = FileHasher::with_blocks(BLOCK as u64);
                for piece in content.chunks(3000) {
                    hasher.update(piece);
                }
                let (hash, found) = hasher.finish();
                let found = found.unwrap();
                assert_eq!(hash, *blake3::hash(content).as_bytes(), "{blocks} blocks and {more} bytes");
                assert_eq!(found.len(), content.len().div_ceil(BLOCK));
                for (index, (block, hash)) in content.chunks(BLOCK).zip(&found).enumerate() {
                    assert_eq!(block_hash(index as u64, BLOCK as u64, block), *hash);
                }
            }
        }
    }

    #[test]
    fn large_and_small_files_have_the_plain_hash() {
        for length in [0, 1, 100_000, (16 << 20) - 1, 16 << 20, (17 << 20) + 77] {
            let content = content(length);
            let mut hasher = FileHasher::new(length as u64);
            hasher.update(&content);
            let (hash, blocks) = hasher.finish();
            assert_eq!(hash, *blake3::hash(&content).as_bytes(), "{length} bytes");
            assert_eq!(blocks.map(|blocks| blocks.len()), (length >= 16 << 20).then(|| length.div_ceil(65_536)));
        }
    }

    #[test]
    fn file_that_became_empty_has_the_plain_hash() {
        assert_eq!(FileHasher::with_blocks(BLOCK as u64).finish().0, *blake3::hash(b"").as_bytes());
    }

    #[test]
    fn zeros_are_zeros() {
        let mut hasher = FileHasher::new(200_000);
        hasher.update(b"x");
        hasher.update_zeros(199_999);
        let mut content = vec![0; 200_000];
        content[0] = b'x';
        assert_eq!(hasher.finish().0, *blake3::hash(&content).as_bytes());
    }
}
