//! What the same bytes cost without a repository: read, hashed, compressed where asked, sealed and
//! written by the bare crates, with as many threads as there are processors.

use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use eyrie::repo::Compression;
use eyrie::{Cause, Error, Result};

/// Files are worked on in pieces of this size, in bytes, as a repository cuts them.
const PIECE: u64 = 16 << 20;
/// A pack is full at this size, in bytes, as in a repository.
const PACK: u64 = 64 << 20;

/// A file and how many bytes it has.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
}

/// A piece of a file, sealed in a pack.
#[derive(Debug, Clone, Copy)]
struct Sealed {
    file: usize,
    offset: u64,
    plain: u64,
    pack: usize,
    position: u64,
    stored: usize,
    number: u64,
    compressed: bool,
}

/// What [`Ceiling::backup`] left.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    packs: Vec<PathBuf>,
    pieces: Vec<Sealed>,
}

/// The bare crates over a set of files.
pub(crate) struct Ceiling<'a> {
    sources: &'a [Source],
    pieces: Vec<(usize, Range<u64>)>,
    key: LessSafeKey,
}

fn refused<E>(_: E) -> Error {
    Error::new(Cause::Failed, "the cipher refused the data")
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

impl<'a> Ceiling<'a> {
    pub(crate) fn new(sources: &'a [Source]) -> Result<Self> {
        let pieces = (0..).zip(sources).flat_map(|(file, source)| {
            let starts = (0..source.size).step_by(usize::try_from(PIECE).unwrap_or(usize::MAX));
            starts.map(move |start| (file, start..(start + PIECE).min(source.size)))
        });
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(refused)?;
        Ok(Self {
            sources,
            pieces: pieces.collect(),
            key: LessSafeKey::new(key),
        })
    }

    /// Runs `work` on every processor, each time with the number of the worker and of a piece.
    fn each(pieces: usize, work: impl Fn(usize, usize) -> Result<()> + Sync) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let next = AtomicUsize::new(0);
        let run = |worker| {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= pieces {
                    return Ok(());
                }
                work(worker, at)?;
            }
        };
        let run = &run;
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|n| scope.spawn(move || run(n))).collect();
            workers.into_iter().try_for_each(|worker| {
                worker
                    .join()
                    .map_err(|_| Error::new(Cause::Failed, "a worker panicked"))?
            })
        })
    }

    fn read(&self, at: usize) -> Result<Vec<u8>> {
        let (file, range) = &self.pieces[at];
        let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(refused)?];
        File::open(&self.sources[*file].path)?.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    /// Reads, hashes, compresses where it pays, seals, and appends to packs below `folder`.
    pub(crate) fn backup(&self, folder: &Path, compression: Compression) -> Result<Stored> {
        std::fs::create_dir_all(folder)?;
        let stored = Mutex::new(Stored::default());
        let packs: Vec<Mutex<Option<(File, usize, u64)>>> =
            (0..256).map(|_| Mutex::default()).collect();
        Self::each(self.pieces.len(), |worker, at| {
            let bytes = self.read(at)?;
            std::hint::black_box(blake3::hash(&bytes));
            let plain = bytes.len();
            let packed = match compression {
                Compression::Off => None,
                Compression::Auto => {
                    let packed = zstd::bulk::compress(&bytes, 1)?;
                    (packed.len() * 100 <= plain * 97).then_some(packed)
                }
            };
            let compressed = packed.is_some();
            let mut sealed = packed.unwrap_or(bytes);
            let aad = Aad::from(*b"ceiling");
            self.key
                .seal_in_place_append_tag(nonce(at as u64), aad, &mut sealed)
                .map_err(refused)?;
            let mut open = lock(&packs[worker]);
            let (file, pack, position) = match open.take() {
                Some(pack) if pack.2 < PACK => pack,
                _ => {
                    let mut stored = lock(&stored);
                    let pack = stored.packs.len();
                    stored.packs.push(folder.join(pack.to_string()));
                    (File::create(&stored.packs[pack])?, pack, 0)
                }
            };
            file.write_all_at(&sealed, position)?;
            let (source, range) = &self.pieces[at];
            lock(&stored).pieces.push(Sealed {
                file: *source,
                offset: range.start,
                plain: plain as u64,
                pack,
                position,
                stored: sealed.len(),
                number: at as u64,
                compressed,
            });
            *open = Some((file, pack, position + sealed.len() as u64));
            Ok(())
        })?;
        let mut stored = stored.into_inner().unwrap_or_default();
        stored
            .pieces
            .sort_by_key(|piece| (piece.pack, piece.position));
        Ok(stored)
    }

    /// Reads packs, opens, expands and hashes what is in them, and hands it on.
    fn open(
        &self,
        stored: &Stored,
        take: impl Fn(&Sealed, &[u8]) -> Result<()> + Sync,
    ) -> Result<()> {
        let packs: Vec<File> = stored
            .packs
            .iter()
            .map(File::open)
            .collect::<Result<_, _>>()?;
        Self::each(stored.pieces.len(), |_, at| {
            let piece = &stored.pieces[at];
            let mut bytes = vec![0; piece.stored];
            packs[piece.pack].read_exact_at(&mut bytes, piece.position)?;
            let aad = Aad::from(*b"ceiling");
            let opened = self
                .key
                .open_in_place(nonce(piece.number), aad, &mut bytes)
                .map_err(refused)?;
            if piece.compressed {
                let length = usize::try_from(piece.plain).map_err(refused)?;
                let plain = zstd::bulk::decompress(opened, length)?;
                std::hint::black_box(blake3::hash(&plain));
                return take(piece, &plain);
            }
            std::hint::black_box(blake3::hash(opened));
            take(piece, opened)
        })
    }

    /// Reads, opens and hashes everything.
    pub(crate) fn verify(&self, stored: &Stored) -> Result<()> {
        self.open(stored, |_, _| Ok(()))
    }

    /// Reads, opens, hashes and writes everything to files below `folder`.
    pub(crate) fn restore(&self, stored: &Stored, folder: &Path) -> Result<()> {
        let names: Vec<PathBuf> = (0..self.sources.len())
            .map(|n| folder.join((n / 1_000).to_string()).join(n.to_string()))
            .collect();
        for name in names.iter().step_by(1_000) {
            std::fs::create_dir_all(name.parent().unwrap_or(folder))?;
        }
        self.open(stored, |piece, bytes| {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&names[piece.file])?;
            file.write_all_at(bytes, piece.offset)?;
            Ok(())
        })
    }

    /// Reads every file and writes it to another: what a copy takes.
    pub(crate) fn copy(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        Self::each(self.sources.len(), |_, at| {
            let mut bytes = Vec::new();
            File::open(&self.sources[at].path)?.read_to_end(&mut bytes)?;
            std::fs::write(folder.join(at.to_string()), bytes)?;
            Ok(())
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
