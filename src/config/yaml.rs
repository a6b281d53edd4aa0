//! YAML as a tree of nodes that know their line: for naming places in messages, and for reading
//! `milvus.yaml`, whose scalars Milvus reads in its own way.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Tag};

use crate::{Cause, Error, Result};

/// Nodes nested deeper than this are refused; Milvus's own file nests six deep.
const MAX_DEPTH: usize = 64;

/// One node and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it holds.
    pub value: Value,
    /// Line, counted from 1.
    pub line: usize,
    /// Column, counted from 1.
    pub column: usize,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing: empty, `~` or `null`.
    Null,
    /// A text or number.
    Scalar(Scalar),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in file order.
    Map(Vec<Entry>),
}

/// A scalar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// Its spelling, quotes removed.
    pub text: String,
    /// Whether it follows from the spelling what it is: it is neither quoted nor a string by its tag.
    pub plain: bool,
}

/// A key of a mapping with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The key's line, counted from 1.
    pub line: usize,
    /// The key's column, counted from 1.
    pub column: usize,
    /// The value.
    pub node: Node,
}

impl Node {
    /// Reads the first document of `text`; an empty text is [`Value::Null`].
    ///
    /// # Errors
    ///
    /// [`Cause::Invalid`] with the line when `text` is not YAML, nests too deep, or has a key that is
    /// itself a list or mapping.
    pub fn parse(text: &str) -> Result<Self> {
        Builder::new(text).document()
    }

    /// The node at a dotted path such as `instance.etcd.endpoints`.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Self> {
        let mut node = self;
        for part in path.split('.') {
            node = match &node.value {
                Value::Map(entries) => &entries.iter().find(|e| e.key == part)?.node,
                Value::List(items) => items.get(part.parse::<usize>().ok()?)?,
                Value::Null | Value::Scalar(_) => return None,
            };
        }
        Some(node)
    }

    /// The line of the key at a dotted path, or of the list item.
    #[must_use]
    pub fn line_of(&self, path: &str) -> Option<usize> {
        let (parent, last) = match path.rsplit_once('.') {
            Some((parent, last)) => (self.at(parent)?, last),
            None => (self, path),
        };
        match &parent.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == last).map(|e| e.line),
            Value::List(items) => Some(items.get(last.parse::<usize>().ok()?)?.line),
            Value::Null | Value::Scalar(_) => None,
        }
    }

    /// The dotted path of the last key or item that begins at or before a line and column (both
    /// from 1), for a message about a value of which only the place is known.
    #[must_use]
    pub fn path_at(&self, line: usize, column: usize) -> Option<String> {
        let mut best: Option<(At, String)> = None;
        self.walk("", &mut |path, at| {
            let later = best.as_ref().is_none_or(|(known, _)| at > *known);
            if at <= (line, column) && later {
                best = Some((at, path.to_owned()));
            }
        });
        best.map(|(_, path)| path)
    }

    fn walk(&self, prefix: &str, visit: &mut impl FnMut(&str, At)) {
        let join = |part: &str| match prefix {
            "" => part.to_owned(),
            _ => format!("{prefix}.{part}"),
        };
        match &self.value {
            Value::Map(entries) => {
                for entry in entries {
                    let path = join(&entry.key);
                    visit(&path, (entry.line, entry.column));
                    entry.node.walk(&path, visit);
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = join(&index.to_string());
                    visit(&path, (item.line, item.column));
                    item.walk(&path, visit);
                }
            }
            Value::Null | Value::Scalar(_) => {}
        }
    }
}

/// Line and column, both from 1.
type At = (usize, usize);

struct Builder<'a> {
    parser: Box<dyn Iterator<Item = Result<(Event<'a>, At)>> + 'a>,
    anchors: Vec<(usize, Node)>,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str) -> Self {
        let parser = Parser::new_from_str(text).map(|event| match event {
            Ok((event, span)) => Ok((event, (span.start.line(), span.start.col() + 1))),
            Err(error) => Err(Error::new(
                Cause::Invalid,
                format!("line {}: {}", error.marker().line(), error.info()),
            )),
        });
        Self {
            parser: Box::new(parser),
            anchors: Vec::new(),
        }
    }

    fn document(mut self) -> Result<Node> {
        while let Some(event) = self.parser.next() {
            let (event, at) = event?;
            if let Some(node) = self.node(event, at, 0)? {
                return Ok(node);
            }
        }
        Ok(Node {
            value: Value::Null,
            line: 1,
            column: 1,
        })
    }

    /// The node that begins with `event`; `None` when the event begins no node.
    fn node(&mut self, event: Event<'a>, at: At, depth: usize) -> Result<Option<Node>> {
        let (line, column) = at;
        if depth > MAX_DEPTH {
            let message = format!("line {line}: nested more than {MAX_DEPTH} levels deep");
            return Err(Error::new(Cause::Invalid, message));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = match tag.as_deref().and_then(Tag::core_suffix) {
                    Some(suffix) => suffix != "str",
                    None => tag.is_none() && matches!(style, ScalarStyle::Plain),
                };
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null {
                    Value::Null
                } else {
                    let text = text.into_owned();
                    Value::Scalar(Scalar { text, plain })
                };
                (value, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (Value::List(self.list(depth)?), anchor),
            Event::MappingStart(_, anchor, _) => (Value::Map(self.map(depth)?), anchor),
            Event::Alias(anchor) => {
                let known = self.anchors.iter().rev().find(|(id, _)| *id == anchor);
                let value = known.map_or(Value::Null, |(_, node)| node.value.clone());
                (value, 0)
            }
            _ => return Ok(None),
        };
        let node = Node {
            value,
            line,
            column,
        };
        if anchor > 0 {
            self.anchors.push((anchor, node.clone()));
        }
        Ok(Some(node))
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>> {
        let mut items = Vec::new();
        while let Some(event) = self.parser.next() {
            let (event, at) = event?;
            if matches!(event, Event::SequenceEnd) {
                break;
            }
            items.extend(self.node(event, at, depth + 1)?);
        }
        Ok(items)
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut key: Option<(String, At)> = None;
        while let Some(event) = self.parser.next() {
            let (event, at) = event?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let Some(node) = self.node(event, at, depth + 1)? else {
                continue;
            };
            let Some((name, (line, column))) = key.take() else {
                key = Some((key_name(node)?, at));
                continue;
            };
            entries.push(Entry {
                key: name,
                line,
                column,
                node,
            });
        }
        Ok(merged(entries))
    }
}

fn key_name(node: Node) -> Result<String> {
    match node.value {
        Value::Scalar(scalar) => Ok(scalar.text),
        Value::Null => Ok(String::new()),
        Value::List(_) | Value::Map(_) => {
            let message = format!("line {}: a key must be a plain word", node.line);
            Err(Error::new(Cause::Invalid, message))
        }
    }
}

/// Applies `<<` merge keys: what they bring yields to what the mapping says itself.
fn merged(entries: Vec<Entry>) -> Vec<Entry> {
    let (merges, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| e.key == "<<");
    for merge in merges {
        let sources = match merge.node.value {
            Value::List(items) => items,
            value => vec![Node {
                value,
                line: merge.line,
                column: merge.column,
            }],
        };
        for source in sources {
            if let Value::Map(brought) = source.value {
                for entry in brought {
                    if !own.iter().any(|e| e.key == entry.key) {
                        own.push(entry);
                    }
                }
            }
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a: &x\n  b: 012\n  c:\n    - one\n    - 'null'\nd:\n  <<: *x\n  b: ~\n";

    #[test]
    fn nodes_keep_spelling_and_lines() -> Result<()> {
        let node = Node::parse(TEXT)?;
        let scalar = |path: &str| node.at(path).map(|n| n.value.clone());
        let expected = |text: &str, plain| {
            let text = text.to_owned();
            Some(Value::Scalar(Scalar { text, plain }))
        };
        assert_eq!(scalar("a.b"), expected("012", true));
        assert_eq!(scalar("a.c.1"), expected("null", false));
        assert_eq!(scalar("d.b"), Some(Value::Null));
        assert_eq!(scalar("d.c.0"), expected("one", true));
        assert_eq!(node.line_of("a.b"), Some(2));
        assert_eq!(node.line_of("a.c.1"), Some(5));
        assert_eq!(node.path_at(5, 8).as_deref(), Some("a.c.1"));
        Ok(())
    }

    #[test]
    fn broken_yaml_names_its_line() {
        let error = Node::parse("a: 1\nb: [1, 2\nc: 3\n").map(|_| ());
        let message = error.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.starts_with("line "), "{message}");
        let deep = "[".repeat(200);
        assert!(Node::parse(&deep).is_err());
    }

    #[test]
    fn an_empty_text_is_null() -> Result<()> {
        assert_eq!(Node::parse("# nothing\n")?.value, Value::Null);
        Ok(())
    }
}
