//! The file system that a path is on, and what is free there; programs on `PATH`.

use std::path::{Path, PathBuf};

/// The program of that name on `PATH`.
pub(crate) fn program_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(name));
    candidates.find(|candidate| candidate.is_file())
}

/// The file system that a path is on, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type as the kernel names it, such as `ext4`.
    pub kind: String,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Bytes that this user may still write.
    pub free: u64,
}

impl FileSystem {
    /// That of `path`, or of the nearest directory above it that is there; `None` where the system does not tell.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let path = std::path::absolute(path).ok()?;
        let found = path.ancestors().find_map(|at| at.canonicalize().ok())?;
        let stat = nix::sys::statvfs::statvfs(&found).ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
        let (mount, kind) = mount_of(&mounts, &found)?;
        Some(Self {
            kind,
            mount,
            free: stat.blocks_available() * stat.fragment_size(),
        })
    }
}

/// Where the file system of `path` is mounted, and its type. Of two at one place the later hides the other.
fn mount_of(mounts: &str, path: &Path) -> Option<(PathBuf, String)> {
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let mount = PathBuf::from(fields.next()?.replace("\\040", " "));
        path.starts_with(&mount)
            .then_some((mount, fields.next()?.to_owned()))
    });
    mounted.max_by_key(|(mount, _)| mount.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_innermost_file_system() {
        let mounts = "overlay / overlay rw 0 0\n/dev/sda1 /srv ext4 rw 0 0\n/dev/sdb /srv/a\\040b xfs rw 0 0\n";
        for (path, kind) in [
            ("/srv2/x", "overlay"),
            ("/srv/x", "ext4"),
            ("/srv/a b/c", "xfs"),
        ] {
            assert_eq!(mount_of(mounts, Path::new(path)).unwrap().1, kind, "{path}");
        }
        let dir = tempfile::tempdir().unwrap();
        let found = FileSystem::of(&dir.path().join("not/there")).unwrap();
        assert!(found.free > 0 && dir.path().starts_with(&found.mount));
    }
}
