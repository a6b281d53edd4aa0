//! Which manifests are snapshots, and what is missing of their lineages (section 10).

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::repo::format::damage::{Damage, DamageKind};
use crate::repo::format::files::StoredFile;
use crate::repo::format::forgotten::Forgotten;
use crate::repo::format::ids::{ManifestHash, RepositoryId, SessionId, SnapshotId};
use crate::repo::format::lineage::{Dead, Lineage, Parent};
use crate::repo::format::manifest::Manifest;

/// What the order of manifests is judged by.
#[derive(Debug)]
pub(super) struct Known<'a> {
    /// The repository that they were read in.
    pub(super) repository: RepositoryId,
    /// Records of forgetting.
    pub(super) forgotten: &'a [Forgotten],
    /// Sessions that marks took for dead.
    pub(super) marked: &'a [Dead],
    /// Snapshots whose manifests are there and cannot be read.
    pub(super) unread: &'a HashSet<SnapshotId>,
}

/// Manifests, judged.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    pub(super) snapshots: Vec<Manifest>,
    /// Of sessions that were taken for dead before anybody saw them: no snapshots.
    pub(super) void: Vec<Manifest>,
    /// Forgotten, and not removed yet: no snapshots any more.
    pub(super) forgotten: Vec<Manifest>,
    /// What is wrong in the order of the repository's own lineages.
    pub(super) damage: Vec<Damage>,
}

impl Known<'_> {
    pub(super) fn judge(&self, manifests: Vec<Manifest>) -> Ordered {
        let records: HashSet<(SnapshotId, ManifestHash)> = self
            .forgotten
            .iter()
            .map(|record| (record.snapshot, record.manifest))
            .collect();
        let mut records_of: HashMap<Lineage, Vec<&Forgotten>> = HashMap::new();
        for record in self.forgotten {
            let of = records_of.entry(record.lineage(self.repository));
            of.or_default().push(record);
        }
        let mut by_lineage: BTreeMap<Lineage, Vec<Manifest>> = BTreeMap::new();
        for manifest in manifests {
            let lineage = manifest.lineage(self.repository);
            by_lineage.entry(lineage).or_default().push(manifest);
        }
        let mut all = Ordered::default();
        for (lineage, mut manifests) in by_lineage {
            let forgotten = records_of.remove(&lineage).unwrap_or_default();
            manifests.sort_by_key(|m| (std::cmp::Reverse(m.sequence), m.snapshot));
            let judged = self.late(&manifests, &forgotten);
            let (mut valid, mut disputed) = (Vec::new(), Vec::new());
            for (manifest, standing) in manifests.into_iter().zip(judged) {
                match standing {
                    Some(false) => valid.push(manifest),
                    Some(true) => all.void.push(manifest),
                    None => {
                        disputed.push(manifest.snapshot);
                        valid.push(manifest);
                    }
                }
            }
            if !disputed.is_empty() {
                all.damage.push(Damage {
                    kind: DamageKind::Sequence,
                    what: format!(
                        "snapshots of instance {:?} take each other's sessions for dead",
                        lineage.instance
                    ),
                    place: StoredFile::Manifest.row().directory.into(),
                    snapshots: disputed,
                });
            }
            if lineage.origin == self.repository {
                self.find_faults(&lineage, &valid, &forgotten, &mut all.damage);
            }
            for manifest in valid {
                let gone = records.contains(&(manifest.snapshot, manifest.hash));
                if gone {
                    all.forgotten.push(manifest);
                } else {
                    all.snapshots.push(manifest);
                }
            }
        }
        all
    }

    /// Which of the manifests of a lineage are of sessions that were taken for dead before anybody saw
    /// them: what a mark says counts, and what a manifest, or the record of a forgotten one, says if it is
    /// or was a snapshot itself. `None` for those that can be told only from each other.
    fn late(&self, manifests: &[Manifest], forgotten: &[&Forgotten]) -> Vec<Option<bool>> {
        let of_manifests = manifests.iter().map(|m| (m.snapshot, m.session, &m.dead));
        let of_records = forgotten.iter().map(|r| (r.snapshot, r.session, &r.dead));
        let speakers: Vec<(SnapshotId, SessionId, &Dead)> =
            of_manifests.chain(of_records).collect();
        let mut marked: HashMap<SessionId, Vec<&[SnapshotId]>> = HashMap::new();
        for (session, seen) in self.marked.iter().flatten() {
            marked.entry(*session).or_default().push(seen);
        }
        let mut namers: HashMap<SessionId, Vec<usize>> = HashMap::new();
        for (at, (_, _, dead)) in speakers.iter().enumerate() {
            for session in dead.keys() {
                namers.entry(*session).or_default().push(at);
            }
        }
        let mut by: Vec<Vec<usize>> = Vec::with_capacity(speakers.len());
        let mut late: Vec<Option<bool>> = Vec::with_capacity(speakers.len());
        for (at, (snapshot, session, _)) in speakers.iter().enumerate() {
            let unseen = |seen: &[SnapshotId]| !seen.contains(snapshot);
            let namers = namers.get(session).into_iter().flatten().copied();
            let says = |namer: &usize| unseen(&speakers[*namer].2[session]);
            by.push(namers.filter(|namer| *namer != at && says(namer)).collect());
            let marks = marked.get(session).into_iter().flatten();
            late.push(marks.copied().any(unseen).then_some(true));
        }
        loop {
            let mut told = false;
            for at in 0..late.len() {
                if late[at].is_some() {
                    continue;
                }
                if by[at].iter().all(|namer| late[*namer] == Some(true)) {
                    late[at] = Some(false);
                } else if by[at].iter().any(|namer| late[*namer] == Some(false)) {
                    late[at] = Some(true);
                }
                told |= late[at].is_some();
            }
            if !told {
                late.truncate(manifests.len());
                return late;
            }
        }
    }

    /// Reports parents that are missing or others than their successors say, and numbers that were taken
    /// twice. `manifests` are of one lineage; those that are forgotten and still there are among them.
    fn find_faults(
        &self,
        lineage: &Lineage,
        manifests: &[Manifest],
        forgotten: &[&Forgotten],
        damage: &mut Vec<Damage>,
    ) {
        let mut there: HashMap<SnapshotId, Parent> = HashMap::new();
        there.extend(forgotten.iter().map(|r| (r.snapshot, r.as_parent())));
        there.extend(manifests.iter().map(|m| (m.snapshot, m.as_parent())));
        let instance = &lineage.instance;
        let mut report = |what: String, snapshots: Vec<SnapshotId>| {
            damage.push(Damage {
                kind: DamageKind::Sequence,
                what,
                place: StoredFile::Manifest.row().directory.into(),
                snapshots,
            });
        };
        let mut numbers: BTreeMap<u64, Vec<SnapshotId>> = BTreeMap::new();
        for manifest in manifests.iter().rev() {
            let same = numbers.entry(manifest.sequence).or_default();
            same.push(manifest.snapshot);
            let Some(parent) = manifest.parent else {
                continue;
            };
            let Parent {
                snapshot, sequence, ..
            } = parent;
            let id = snapshot.short();
            match there.get(&snapshot) {
                Some(found) if *found == parent && sequence < manifest.sequence => {}
                Some(_) => report(
                    format!(
                        "snapshot {sequence} of instance {instance:?}, {id}, is not the one that snapshot {} was made after",
                        manifest.sequence
                    ),
                    vec![snapshot, manifest.snapshot],
                ),
                None if self.unread.contains(&snapshot) => {}
                None => report(
                    format!(
                        "snapshot {sequence} of instance {instance:?} is missing: {id}, the parent of snapshot {}",
                        manifest.sequence
                    ),
                    vec![manifest.snapshot],
                ),
            }
        }
        for (sequence, ids) in numbers {
            if ids.len() > 1 {
                report(
                    format!("several snapshots of instance {instance:?} are number {sequence}"),
                    ids,
                );
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::repo::format::lineage::Origin;
    use crate::repo::format::manifest::{Roots, Totals};

    const HERE: RepositoryId = RepositoryId([1; 32]);

    /// A manifest after `parent`, of session `session`.
    pub(in crate::repo::session) fn after(
        parent: Option<&Manifest>,
        id: u8,
        session: u8,
    ) -> Manifest {
        Manifest {
            format: 1,
            snapshot: SnapshotId([id; 32]),
            instance: "a".into(),
            origin: None,
            session: SessionId([session; 32]),
            sequence: parent.map_or(1, |parent| parent.sequence + 1),
            parent: parent.map(Manifest::as_parent),
            dead: Dead::new(),
            unreadable: vec![],
            requires: vec![],
            time: Timestamp::from_second(i64::from(id)).unwrap(),
            roots: Roots::new(),
            totals: Totals::default(),
            labels: BTreeMap::new(),
            body: serde_json::Value::Null,
            hash: ManifestHash([id; 32]),
            amended: vec![],
        }
    }

    fn dead(session: u8, seen: &[&Manifest]) -> Dead {
        let seen = seen.iter().map(|m| m.snapshot).collect();
        Dead::from([(SessionId([session; 32]), seen)])
    }

    fn judge(manifests: &[&Manifest], forgotten: &[Forgotten], marked: &[Dead]) -> Ordered {
        let known = Known {
            repository: HERE,
            forgotten,
            marked,
            unread: &HashSet::new(),
        };
        known.judge(manifests.iter().copied().cloned().collect())
    }

    fn ids(manifests: &[Manifest]) -> Vec<u8> {
        let mut ids: Vec<u8> = manifests.iter().map(|m| m.snapshot.0[0]).collect();
        ids.sort_unstable();
        ids
    }

    fn whats(ordered: &Ordered) -> Vec<&str> {
        ordered.damage.iter().map(|d| d.what.as_str()).collect()
    }

    #[test]
    fn a_manifest_that_comes_after_its_session_was_taken_for_dead_is_no_snapshot() {
        let first = after(None, 1, 1);
        let late = after(Some(&first), 2, 2);
        let mut next = after(Some(&first), 3, 3);
        next.dead = dead(2, &[]);
        for order in [[&first, &late, &next], [&next, &late, &first]] {
            let all = judge(&order, &[], &[]);
            assert_eq!((ids(&all.snapshots), ids(&all.void)), (vec![1, 3], vec![2]));
            assert_eq!(whats(&all), [""; 0], "the number 2 is not taken twice");
        }
        // One that the successor had seen counts.
        let mut saw = after(Some(&late), 3, 3);
        saw.dead = dead(2, &[&late]);
        let all = judge(&[&first, &late, &saw], &[], &[]);
        assert_eq!(
            (ids(&all.snapshots), ids(&all.void)),
            (vec![1, 2, 3], vec![])
        );
        // A mark, and the record of a successor that is forgotten, say the same.
        let all = judge(&[&first, &late], &[], &[dead(2, &[])]);
        assert_eq!(ids(&all.void), [2]);
        let record = Forgotten::of(&next, Timestamp::UNIX_EPOCH);
        let all = judge(&[&first, &late], &[record], &[]);
        assert_eq!(ids(&all.void), [2]);
    }

    #[test]
    fn what_a_void_manifest_says_of_others_counts_for_nothing() {
        let first = after(None, 1, 1);
        // The late one believes the first session dead, and did not see its snapshot.
        let mut late = after(None, 2, 2);
        (late.sequence, late.dead) = (2, dead(1, &[]));
        let mut next = after(Some(&first), 3, 3);
        (next.sequence, next.dead) = (3, dead(2, &[]));
        let all = judge(&[&first, &late, &next], &[], &[]);
        assert_eq!((ids(&all.snapshots), ids(&all.void)), (vec![1, 3], vec![2]));
    }

    #[test]
    fn a_late_manifest_is_none_whatever_its_number() {
        let first = after(None, 1, 1);
        // It skipped numbers, for what its host remembered or could not read.
        let mut late = after(Some(&first), 2, 2);
        late.sequence = 9;
        let mut next = after(Some(&first), 3, 3);
        next.dead = dead(2, &[]);
        let last = after(Some(&next), 4, 4);
        let all = judge(&[&first, &late, &next, &last], &[], &[]);
        assert_eq!(
            (ids(&all.snapshots), ids(&all.void)),
            (vec![1, 3, 4], vec![2])
        );
        // Nor does one of the successor's number speak when it is void itself.
        let mut also = after(Some(&first), 5, 5);
        also.dead = dead(6, &[]);
        let seen = after(Some(&first), 6, 6);
        let mut next = after(Some(&seen), 7, 7);
        next.dead = Dead::from([
            (SessionId([5; 32]), vec![]),
            (SessionId([6; 32]), vec![seen.snapshot]),
        ]);
        let all = judge(&[&first, &also, &seen, &next], &[], &[]);
        assert_eq!((ids(&all.void), whats(&all)), (vec![5], vec![]));
    }

    #[test]
    fn the_record_of_a_manifest_that_was_none_says_nothing() {
        let first = after(None, 1, 1);
        let cut_off = after(Some(&first), 2, 2);
        // Late itself, and forgotten before its successor's manifest was there.
        let mut late = after(Some(&first), 3, 3);
        late.dead = dead(2, &[]);
        let mut next = after(Some(&cut_off), 4, 4);
        next.dead = Dead::from([
            (SessionId([2; 32]), vec![cut_off.snapshot]),
            (SessionId([3; 32]), vec![]),
        ]);
        let record = Forgotten::of(&late, Timestamp::UNIX_EPOCH);
        for there in [
            &[&first, &cut_off, &next][..],
            &[&first, &cut_off, &late, &next],
        ] {
            let all = judge(there, std::slice::from_ref(&record), &[]);
            assert_eq!((ids(&all.snapshots), whats(&all)), (vec![1, 2, 4], vec![]));
        }
    }

    #[test]
    fn missing_parents_other_parents_and_doubles_are_damage() {
        let (first, second, third);
        first = after(None, 1, 1);
        second = after(Some(&first), 2, 2);
        third = after(Some(&second), 3, 3);
        assert_eq!(whats(&judge(&[&first, &second, &third], &[], &[])), [""; 0]);
        let missing = judge(&[&first, &third], &[], &[]);
        let what = "snapshot 2 of instance \"a\" is missing: 02020202, the parent of snapshot 3";
        assert_eq!(whats(&missing), [what]);
        assert_eq!(missing.damage[0].snapshots, [third.snapshot]);
        // A record explains it, if it is of the same file.
        let mut record = Forgotten::of(&second, Timestamp::UNIX_EPOCH);
        let explained = judge(&[&first, &third], std::slice::from_ref(&record), &[]);
        assert_eq!(whats(&explained), [""; 0]);
        record.manifest = ManifestHash([9; 32]);
        assert_eq!(whats(&judge(&[&first, &third], &[record], &[])).len(), 1);
        // History cannot be exchanged.
        let mut other = second.clone();
        other.hash = ManifestHash([9; 32]);
        let exchanged = judge(&[&first, &other, &third], &[], &[]);
        assert_eq!(
            whats(&exchanged),
            [
                "snapshot 2 of instance \"a\", 02020202, is not the one that snapshot 3 was made after"
            ]
        );
        let double = after(Some(&first), 4, 4);
        let doubled = judge(&[&first, &second, &double], &[], &[]);
        assert_eq!(
            whats(&doubled),
            ["several snapshots of instance \"a\" are number 2"]
        );
        // Each says of the other that it is late: nobody can tell.
        let (mut one, mut two) = (second.clone(), double.clone());
        (one.dead, two.dead) = (dead(4, &[]), dead(2, &[]));
        let both = judge(&[&first, &one, &two], &[], &[]);
        assert_eq!((ids(&both.void).len(), whats(&both).len()), (0, 2));
        assert!(whats(&both)[0].contains("each other"), "{:?}", whats(&both));
    }

    #[test]
    fn a_forgotten_manifest_that_is_still_there_is_no_snapshot_and_another_of_its_id_is() {
        let first = after(None, 1, 1);
        let second = after(Some(&first), 2, 2);
        let record = Forgotten::of(&first, Timestamp::UNIX_EPOCH);
        let all = judge(&[&first, &second], std::slice::from_ref(&record), &[]);
        assert_eq!(
            (ids(&all.snapshots), ids(&all.forgotten)),
            (vec![2], vec![1])
        );
        assert_eq!(whats(&all), [""; 0]);
        // It was copied back since.
        let mut again = first.clone();
        again.hash = ManifestHash([8; 32]);
        again.origin = Some(Origin {
            repository: HERE,
            manifest: first.hash,
        });
        let all = judge(&[&again, &second], &[record], &[]);
        assert_eq!((ids(&all.snapshots), whats(&all)), (vec![1, 2], vec![]));
    }

    #[test]
    fn copies_of_some_snapshots_are_no_gap_and_no_double() {
        let elsewhere = |manifest: &Manifest| Manifest {
            origin: Some(Origin {
                repository: RepositoryId([2; 32]),
                manifest: manifest.hash,
            }),
            snapshot: SnapshotId([manifest.snapshot.0[0] + 100; 32]),
            ..manifest.clone()
        };
        let mut chain = vec![after(None, 1, 1)];
        for id in 2..=7 {
            chain.push(after(chain.last(), id, id));
        }
        let native = after(None, 50, 50);
        let (three, seven) = (elsewhere(&chain[2]), elsewhere(&chain[6]));
        let all = judge(&[&three, &seven, &native], &[], &[]);
        assert_eq!(ids(&all.snapshots), [50, 103, 107]);
        assert_eq!(whats(&all), [""; 0]);
    }
}
