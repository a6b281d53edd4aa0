//! The rooms of the source, in their order, and that no file uses what stands above it
//! (docs/architecture.md). What is used is read from the sources, with re-exports followed to the
//! file that defines a thing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;

/// The rooms from the lowest to the highest; those of one line do not know each other.
const ROOMS: &[&[&str]] = &[
    &["base", "sys"],
    &["store"],
    &["repo"],
    &["etcd"],
    &["milvus"],
    &["config"],
    &["instance"],
    &["snapshot"],
    &["capture", "restore", "verify"],
    &["retention"],
    &["cli"],
    &["lib", "main"],
];

/// The rooms within a room, in the same way.
const INNER: &[(&str, &[&[&str]])] = &[
    (
        "repo",
        &[
            &["format"],
            &["host", "memory", "opening"],
            &["repository"],
            &["session"],
            &["care"],
        ],
    ),
    (
        "restore",
        &[&["options", "scope"], &["context"], &["plan"], &["act"]],
    ),
];

/// What must not be known although it stands below.
const STRANGERS: &[(&str, &str)] = &[
    ("etcd", "store"),
    ("etcd", "repo"),
    ("milvus", "store"),
    ("milvus", "repo"),
];

#[test]
fn no_room_uses_a_higher_one() {
    let sources = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let wrong = sources.upward();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let page = include_str!("../../docs/architecture.md");
    let rooms = ROOMS.iter().copied().flatten();
    for room in rooms.filter(|room| !["lib", "main"].contains(*room)) {
        assert!(
            page.contains(&format!("`{room}/`")),
            "the page lacks {room}"
        );
    }
    let exists = |named: &str| {
        let listed = sources.0.values();
        listed
            .into_iter()
            .any(|module| module.file.ends_with(named))
            || is_file_of_tests(named)
    };
    let named = page
        .split('`')
        .filter(|word| Path::new(word).extension().is_some_and(|end| end == "rs"));
    for named in named.filter(|word| !word.contains('<') && !word.starts_with("tests/")) {
        assert!(exists(named), "the page names {named}, which is gone");
    }
}

#[test]
fn files_form_no_circle() {
    let sources = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let circles = sources.circles();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn a_use_of_a_higher_room_and_a_circle_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "lib.rs",
        "mod base; mod repo; mod snapshot; mod store; pub use base::error::Error;",
    );
    write("base/mod.rs", "pub mod error; mod lock; mod text;");
    // In a macro, through a re-export.
    write(
        "base/error.rs",
        "pub struct Error; fn f() { dbg!(crate::store::open()) }",
    );
    // By a glob, handed on, and as what a macro made.
    write(
        "base/text.rs",
        "use crate::store::*; pub use crate::snapshot::Snapshot;",
    );
    write("base/lock.rs", "fn f(_: crate::repo::Made) {}");
    write("store/mod.rs", "mod s3; pub use s3::open;");
    write("store/s3.rs", "pub fn open() {} use crate::Error;");
    write("repo/mod.rs", "mod format; mod session; make!(Made);");
    write(
        "repo/format.rs",
        "use super::session::Lease; pub struct Pack(Lease);",
    );
    write(
        "repo/session.rs",
        "use super::format; pub struct Lease; fn f(_: format::Pack) {}",
    );
    write(
        "snapshot/mod.rs",
        "mod body; pub struct Snapshot; fn f() { body::read() }",
    );
    // What a file's own parent defines is no circle.
    write(
        "snapshot/body.rs",
        "use super::Snapshot; pub fn read() -> Snapshot { Snapshot }",
    );
    let sources = Sources::read(dir.path());
    let upward = sources.upward();
    assert_eq!(
        upward,
        [
            "base/error.rs uses store/s3.rs: base stands below store",
            "base/lock.rs uses repo/mod.rs: base stands below repo",
            "base/text.rs uses snapshot/mod.rs: base stands below snapshot",
            "base/text.rs uses store/mod.rs: base stands below store",
            "repo/format.rs uses repo/session.rs: format stands below session",
        ]
    );
    assert_eq!(
        sources.circles(),
        [
            "base/error.rs, store/s3.rs use each other",
            "repo/format.rs, repo/session.rs use each other",
        ]
    );
}

type Name = Vec<String>;

/// One `mod`, in a file of its own or inline.
#[derive(Default)]
struct Module {
    file: PathBuf,
    defines: BTreeSet<String>,
    /// What `use` brings in: the name here, and the path as written.
    brings: BTreeMap<String, Name>,
    globs: Vec<Name>,
    /// Modules that a glob brings in whole.
    whole: Vec<Name>,
    /// Paths that are used, as they are written.
    mentions: Vec<Name>,
    /// Paths that are handed on: no use in a circle, but one of a room.
    handed_on: Vec<Name>,
}

/// The modules of a crate, without its tests.
#[derive(Default)]
struct Sources(BTreeMap<Name, Module>);

impl Sources {
    fn read(src: &Path) -> Self {
        let mut sources = Self::default();
        sources.file(src, Path::new("lib.rs"), &[]);
        sources
    }

    fn file(&mut self, src: &Path, file: &Path, at: &[String]) {
        let text = std::fs::read_to_string(src.join(file)).unwrap();
        let parsed = syn::parse_file(&text).unwrap();
        self.module(src, file, at, &parsed.items);
    }

    fn module(&mut self, src: &Path, file: &Path, at: &[String], items: &[syn::Item]) {
        let mut reader = Reader::default();
        file.clone_into(&mut reader.module.file);
        for item in items {
            if is_test(item) {
                continue;
            }
            if let syn::Item::Mod(item) = item {
                let name = item.ident.to_string();
                let below = [at, std::slice::from_ref(&name)].concat();
                if let Some((_, items)) = &item.content {
                    self.module(src, file, &below, items);
                } else {
                    let dir: PathBuf = at.iter().collect();
                    let flat = dir.join(format!("{name}.rs"));
                    let own = dir.join(&name).join("mod.rs");
                    let there = if src.join(&flat).exists() { flat } else { own };
                    self.file(src, &there, &below);
                }
                continue;
            }
            reader.define(item);
            reader.visit_item(item);
        }
        self.0.insert(at.to_vec(), reader.module);
    }

    /// The file that defines what `path` names, written in the module `at`; `None` for other crates
    /// and for a module that is only brought in as a namespace.
    fn definition(&self, at: &[String], path: &[String], depth: usize) -> Option<&Path> {
        match self.resolve(at, path, depth)? {
            Found::Item(module) => Some(&self.0[&module].file),
            Found::Module(_) => None,
        }
    }

    fn resolve(&self, at: &[String], path: &[String], depth: usize) -> Option<Found> {
        if depth > 20 {
            return None;
        }
        let (first, mut rest) = path.split_first()?;
        let mut here = match first.as_str() {
            "crate" => vec![],
            "self" => at.to_vec(),
            "super" => at[..at.len().checked_sub(1)?].to_vec(),
            _ if self.knows(at, first) => {
                rest = path;
                at.to_vec()
            }
            _ => return None,
        };
        while let Some((name, more)) = rest.split_first() {
            rest = more;
            if name == "super" {
                here.pop();
                continue;
            }
            let module = &self.0[&here];
            let below = [&here[..], std::slice::from_ref(name)].concat();
            if module.defines.contains(name) && (more.is_empty() || !self.0.contains_key(&below)) {
                return Some(Found::Item(here));
            }
            if self.0.contains_key(&below) {
                here = below;
                continue;
            }
            let brought = match module.brings.get(name) {
                Some(brought) => self.resolve(&here, brought, depth + 1),
                None => module.globs.iter().find_map(|glob| {
                    let path = [&glob[..], std::slice::from_ref(name)].concat();
                    self.resolve(&here, &path, depth + 1)
                }),
            };
            match brought {
                Some(Found::Module(module)) => here = module,
                Some(item @ Found::Item(_)) => return Some(item),
                // What a macro defines is not in the syntax tree: it is of the module that was named.
                None if module.brings.contains_key(name) => return None,
                None => return Some(Found::Item(here)),
            }
        }
        Some(Found::Module(here))
    }

    fn knows(&self, at: &[String], name: &String) -> bool {
        let module = &self.0[at];
        let below = [at, std::slice::from_ref(name)].concat();
        self.0.contains_key(&below) || module.brings.contains_key(name)
    }

    /// Which file uses which; with `all`, also what it hands on.
    fn uses(&self, all: bool) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let mut uses: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
        for (at, module) in &self.0 {
            let own = uses.entry(&module.file).or_default();
            let handed_on = module.handed_on.iter().filter(|_| all);
            for path in module.mentions.iter().chain(handed_on) {
                if let Some(file) = self.definition(at, path, 0) {
                    own.insert(file);
                }
            }
            for path in &module.whole {
                if let Some(Found::Module(whole)) = self.resolve(at, path, 0) {
                    own.insert(&self.0[&whole].file);
                }
            }
            own.remove(&*module.file);
        }
        uses
    }

    fn upward(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (file, used) in self.uses(true) {
            for other in used {
                let (from, to) = (part(file, 0), part(other, 0));
                let (order, from, to) = if from == to {
                    let Some((_, inner)) = INNER.iter().find(|(room, _)| *room == from) else {
                        continue;
                    };
                    let (from, to) = (part(file, 1), part(other, 1));
                    (*inner, from, to)
                } else {
                    (ROOMS, from, to)
                };
                if from == to || from == "mod" || to == "mod" {
                    continue;
                }
                let place = |room: &str| {
                    let found = order.iter().position(|line| line.contains(&room));
                    found.unwrap_or_else(|| panic!("{room} is no room of docs/architecture.md"))
                };
                let (file, other) = (file.display(), other.display());
                if place(&from) < place(&to) {
                    wrong.push(format!("{file} uses {other}: {from} stands below {to}"));
                } else if place(&from) == place(&to) {
                    wrong.push(format!("{file} uses {other}: {from} stands beside {to}"));
                } else if STRANGERS.contains(&(&from, &to)) {
                    wrong.push(format!("{file} uses {other}: {from} must not know {to}"));
                }
            }
        }
        wrong
    }

    /// Files that use each other, directly or through others. What the modules around a file define
    /// is the file's own: using it makes no circle.
    fn circles(&self) -> Vec<String> {
        let mut uses = self.uses(false);
        for (file, used) in &mut uses {
            used.retain(|other| !is_around(other, file));
        }
        let reach: BTreeMap<&Path, BTreeSet<&Path>> = uses
            .keys()
            .map(|file| (*file, reachable(&uses, file)))
            .collect();
        let mut circles: BTreeSet<BTreeSet<&Path>> = BTreeSet::new();
        for (file, reached) in &reach {
            if reached.contains(file) {
                let back = reached.iter().filter(|other| reach[*other].contains(file));
                circles.insert(back.copied().collect());
            }
        }
        let named = circles.iter().map(|circle| {
            let files: Vec<String> = circle.iter().map(|f| f.display().to_string()).collect();
            format!("{} use each other", files.join(", "))
        });
        named.collect()
    }
}

enum Found {
    /// Something that this module defines.
    Item(Name),
    Module(Name),
}

fn reachable<'a>(
    uses: &BTreeMap<&'a Path, BTreeSet<&'a Path>>,
    from: &'a Path,
) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&Path> = uses[from].iter().copied().collect();
    while let Some(file) = open.pop() {
        if reached.insert(file) {
            open.extend(&uses[file]);
        }
    }
    reached
}

/// Whether there is such a file that only tests have, which [`Sources`] leaves out.
fn is_file_of_tests(named: &str) -> bool {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    src.join(named).exists()
}

/// Whether the module of the file `outer` contains that of `inner`.
fn is_around(outer: &Path, inner: &Path) -> bool {
    let module = |file: &Path| match file.file_name().and_then(|name| name.to_str()) {
        Some("mod.rs" | "lib.rs") => file.parent().unwrap().to_owned(),
        _ => file.with_extension(""),
    };
    let (outer, inner) = (module(outer), module(inner));
    outer != inner && inner.starts_with(outer)
}

/// The part of a file's path at `depth`: its room, or the room within it.
fn part(file: &Path, depth: usize) -> String {
    let part = file.iter().nth(depth).unwrap().to_str().unwrap();
    part.trim_end_matches(".rs").to_owned()
}

fn is_test(item: &syn::Item) -> bool {
    let (syn::Item::Mod(syn::ItemMod { attrs, .. })
    | syn::Item::Use(syn::ItemUse { attrs, .. })
    | syn::Item::Fn(syn::ItemFn { attrs, .. })
    | syn::Item::Impl(syn::ItemImpl { attrs, .. })) = item
    else {
        return false;
    };
    is_for_tests(attrs)
}

fn is_for_tests(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        let condition = list.tokens.to_string();
        let test = ["test", "any (test , feature = \"testing\")"];
        list.path.is_ident("cfg") && test.contains(&&*condition)
    })
}

/// Reads what one module defines and mentions.
#[derive(Default)]
struct Reader {
    module: Module,
    /// Whether the `use` that is read hands on what another module defines, which is no use of it.
    hands_on: bool,
}

impl Reader {
    fn define(&mut self, item: &syn::Item) {
        let name = match item {
            syn::Item::Const(item) => &item.ident,
            syn::Item::Enum(item) => &item.ident,
            syn::Item::Fn(item) => &item.sig.ident,
            syn::Item::Static(item) => &item.ident,
            syn::Item::Struct(item) => &item.ident,
            syn::Item::Trait(item) => &item.ident,
            syn::Item::Type(item) => &item.ident,
            syn::Item::Union(item) => &item.ident,
            syn::Item::Macro(syn::ItemMacro {
                ident: Some(name), ..
            }) => name,
            _ => return,
        };
        self.module.defines.insert(name.to_string());
    }

    fn tree(&mut self, before: &Name, tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [&before[..], &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Group(group) => group.items.iter().for_each(|t| self.tree(before, t)),
            syn::UseTree::Glob(_) => {
                self.module.globs.push(before.clone());
                self.module.whole.push(before.clone());
            }
            syn::UseTree::Name(name) if name.ident == "self" => {
                self.bring(before.last().unwrap().clone(), before.clone());
            }
            syn::UseTree::Name(name) => self.bring(name.ident.to_string(), with(&name.ident)),
            syn::UseTree::Rename(name) => self.bring(name.rename.to_string(), with(&name.ident)),
        }
    }

    fn bring(&mut self, name: String, path: Name) {
        if self.hands_on {
            self.module.handed_on.push(path.clone());
        } else {
            self.module.mentions.push(path.clone());
        }
        self.module.brings.insert(name, path);
    }

    /// Paths among the tokens of a macro call.
    fn tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut colons) = (Name::new(), 0);
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.mention(std::mem::take(&mut path));
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.mention(std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.mention(path);
    }

    fn mention(&mut self, path: Name) {
        if path.len() > 1 {
            self.module.mentions.push(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.hands_on = !matches!(item.vis, syn::Visibility::Inherited);
        self.tree(&Name::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|part| part.ident.to_string());
        self.mention(names.collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        if !matches!(item, syn::ImplItem::Fn(function) if is_for_tests(&function.attrs)) {
            syn::visit::visit_impl_item(self, item);
        }
    }
}
