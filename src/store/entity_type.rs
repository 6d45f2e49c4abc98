//! Entity types: what they declare, and how a declaration may change.
//!
//! A type's schema is a list of revisions, each of which only adds: attributes are appended, never removed, renamed or given
//! another kind. So a row that was written under one revision reads under every later one, with nulls for what was added
//! since, and under every earlier one, without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::model::{Attribute, AttributeKind, MAX_DECIMAL_DIGITS};
use crate::{error::Violation, time::SysTime};

/// The longest name of an entity type or attribute, bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// The most attributes of an entity type.
pub const MAX_ATTRIBUTES: usize = 256;
/// The longest description, bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 4096;

/// Names that columns of versions have besides the attributes.
const RESERVED: [&str; 5] = [
    "entity_id",
    "valid_from",
    "valid_to",
    "system_from",
    "system_to",
];

/// Whose system times a type's commits have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityTypeState {
    /// The store's own. The type can be read.
    #[default]
    Active,
    /// The caller's. The type cannot be read before the import is finished.
    Importing,
}

/// The declaration of an entity type.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntityTypeSpec {
    /// `[a-z_][a-z0-9_]*`, at most [`MAX_NAME_BYTES`].
    pub name: String,
    /// 1 to [`MAX_ATTRIBUTES`], in the order in which SQL shows them.
    pub attributes: Vec<Attribute>,
    /// For people.
    pub description: String,
    /// The state to begin in.
    pub state: EntityTypeState,
}

impl EntityTypeSpec {
    /// What is wrong with it, with paths from `entity_type`; empty if nothing is.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        check_name("entity_type.name", &self.name, &mut found);
        check_description("entity_type.description", &self.description, &mut found);
        let count = self.attributes.len();
        if count == 0 {
            found.push(Violation::new(
                "entity_type.attributes",
                too_many_attributes(count),
            ));
        }
        check_count("entity_type.attributes", count, &mut found);
        for (index, attribute) in self.attributes.iter().enumerate() {
            let path = format!("entity_type.attributes[{index}]");
            check_attribute(&path, attribute, &mut found);
            let before = &self.attributes[..index];
            if before.iter().any(|other| other.name == attribute.name) {
                found.push(Violation::new(
                    format!("{path}.name"),
                    format!("{:?} is declared twice", attribute.name),
                ));
            }
        }
        found
    }
}

/// A change to a declaration. What is so already changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntityTypeUpdate {
    /// Appended in this order.
    pub add_attributes: Vec<Attribute>,
    /// Names of attributes that take no new values from now on.
    pub deprecate: Vec<String>,
    /// Names of attributes that take values again.
    pub restore: Vec<String>,
    /// `None`: stays.
    pub description: Option<String>,
}

/// One state of a schema: the first `attribute_count` attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Revision {
    pub(super) time: SysTime,
    pub(super) attribute_count: usize,
    /// Indices.
    pub(super) deprecated: BTreeSet<usize>,
    pub(super) description: String,
}

/// A stored entity type, at one revision of its schema: the latest, unless it comes from [`EntityType::at_revision`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityType {
    name: String,
    state: EntityTypeState,
    create_time: SysTime,
    /// Of this revision.
    attributes: Vec<Attribute>,
    /// All up to this one, which is the last.
    revisions: Arc<[Revision]>,
    index_by_name: BTreeMap<String, usize>,
}

impl EntityType {
    pub(super) fn new(spec: EntityTypeSpec, create_time: SysTime) -> Self {
        let EntityTypeSpec {
            name,
            attributes,
            description,
            state,
        } = spec;
        let first = Revision {
            time: create_time,
            attribute_count: attributes.len(),
            deprecated: BTreeSet::new(),
            description,
        };
        Self::build(name, state, create_time, attributes, [first].into())
    }

    /// A type as it was stored. `None` if the parts do not fit together: there is no revision, or one that has not as many
    /// attributes as it says.
    pub(super) fn from_stored(
        name: String,
        state: EntityTypeState,
        create_time: SysTime,
        attributes: Vec<Attribute>,
        revisions: Vec<Revision>,
    ) -> Option<Self> {
        let is_sound = revisions.is_sorted_by_key(|revision| revision.attribute_count)
            && revisions
                .last()
                .is_some_and(|last| last.attribute_count == attributes.len());
        is_sound.then(|| Self::build(name, state, create_time, attributes, revisions.into()))
    }

    fn build(
        name: String,
        state: EntityTypeState,
        create_time: SysTime,
        attributes: Vec<Attribute>,
        revisions: Arc<[Revision]>,
    ) -> Self {
        let index_by_name = attributes
            .iter()
            .enumerate()
            .map(|(index, attribute)| (attribute.name.clone(), index))
            .collect();
        Self {
            name,
            state,
            create_time,
            attributes,
            revisions,
            index_by_name,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For people.
    pub fn description(&self) -> &str {
        self.latest().map_or("", |latest| &latest.description)
    }

    /// Its attributes, in order.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// The place of an attribute.
    pub fn attribute_index(&self, name: &str) -> Option<usize> {
        self.index_by_name.get(name).copied()
    }

    /// Whether the attribute at this place takes no new values.
    pub fn is_deprecated(&self, index: usize) -> bool {
        self.latest()
            .is_some_and(|latest| latest.deprecated.contains(&index))
    }

    /// When it was declared.
    pub fn create_time(&self) -> SysTime {
        self.create_time
    }

    /// Whether it is being imported. This is what was so when the value was read; it only ever becomes
    /// [`EntityTypeState::Active`].
    pub fn state(&self) -> EntityTypeState {
        self.state
    }

    /// The number of this revision, from 1.
    pub fn revision(&self) -> u32 {
        u32::try_from(self.revisions.len()).unwrap_or(u32::MAX)
    }

    /// When this revision came.
    pub fn revision_time(&self) -> SysTime {
        self.latest().map_or(self.create_time, |latest| latest.time)
    }

    /// The type as an earlier revision declared it; `None` if it has no such revision.
    #[must_use]
    pub fn at_revision(&self, revision: u32) -> Option<Self> {
        let count = usize::try_from(revision).ok()?;
        let revisions = self.revisions.get(..count)?;
        let attributes = self.attributes.get(..revisions.last()?.attribute_count)?;
        Some(Self::build(
            self.name.clone(),
            self.state,
            self.create_time,
            attributes.to_vec(),
            revisions.into(),
        ))
    }

    /// Every revision up to this one, the first one first.
    pub fn revisions(&self) -> impl Iterator<Item = Self> + '_ {
        (1..=self.revision()).filter_map(|revision| self.at_revision(revision))
    }

    pub(super) fn stored_revisions(&self) -> &[Revision] {
        &self.revisions
    }

    /// Whether this or an earlier revision has this declaration. States are not compared: an import may have ended.
    pub(super) fn declares(&self, spec: &EntityTypeSpec) -> bool {
        self.revisions.iter().any(|revision| {
            revision.description == spec.description
                && self.attributes.get(..revision.attribute_count) == Some(&spec.attributes[..])
        })
    }

    /// The type with its import finished.
    pub(super) fn sealed(&self) -> Self {
        Self {
            state: EntityTypeState::Active,
            ..self.clone()
        }
    }

    /// The type with another revision; `None` if the update changes nothing.
    ///
    /// # Errors
    /// What is wrong with the update, with paths from the request's root.
    pub(super) fn updated(
        &self,
        update: EntityTypeUpdate,
        time: SysTime,
    ) -> Result<Option<Self>, Vec<Violation>> {
        let EntityTypeUpdate {
            add_attributes,
            deprecate,
            restore,
            description,
        } = update;
        let mut found = Vec::new();
        let attributes = self.appended(add_attributes, &mut found);
        let deprecated = self.deprecated_after(&attributes, &deprecate, &restore, &mut found);
        let description = description.unwrap_or_else(|| self.description().to_owned());
        check_description("description", &description, &mut found);
        if !found.is_empty() {
            return Err(found);
        }
        let next = Revision {
            time: time.max(self.revision_time()),
            attribute_count: attributes.len(),
            deprecated,
            description,
        };
        let is_same = self.latest().is_some_and(|latest| {
            (
                latest.attribute_count,
                &latest.deprecated,
                &latest.description,
            ) == (next.attribute_count, &next.deprecated, &next.description)
        });
        Ok((!is_same).then(|| {
            let revisions = self.revisions.iter().cloned().chain([next]).collect();
            Self::build(
                self.name.clone(),
                self.state,
                self.create_time,
                attributes,
                revisions,
            )
        }))
    }

    fn appended(&self, added: Vec<Attribute>, found: &mut Vec<Violation>) -> Vec<Attribute> {
        let mut attributes = self.attributes.clone();
        for (index, attribute) in added.into_iter().enumerate() {
            let path = format!("add_attributes[{index}]");
            match attributes.iter().find(|known| known.name == attribute.name) {
                Some(known) if known.kind == attribute.kind => {}
                Some(known) => found.push(Violation::new(
                    format!("{path}.kind"),
                    format!(
                        "{:?} is a {} attribute, and kinds do not change",
                        known.name,
                        known.kind.name()
                    ),
                )),
                None => {
                    check_attribute(&path, &attribute, found);
                    attributes.push(attribute);
                }
            }
        }
        check_count("add_attributes", attributes.len(), found);
        attributes
    }

    fn deprecated_after(
        &self,
        attributes: &[Attribute],
        deprecate: &[String],
        restore: &[String],
        found: &mut Vec<Violation>,
    ) -> BTreeSet<usize> {
        let mut find = |field: String, name: &String| {
            let place = attributes
                .iter()
                .position(|attribute| attribute.name == *name);
            if place.is_none() {
                let (entity_type, shown) = (&self.name, shown(name));
                found.push(Violation::new(
                    field,
                    format!("entity type {entity_type:?} has no attribute {shown:?}"),
                ));
            }
            place
        };
        let mut deprecated = self
            .latest()
            .map(|latest| latest.deprecated.clone())
            .unwrap_or_default();
        for (index, name) in deprecate.iter().enumerate() {
            deprecated.extend(find(format!("deprecate_attributes[{index}]"), name));
        }
        for (index, name) in restore.iter().enumerate() {
            if let Some(place) = find(format!("restore_attributes[{index}]"), name) {
                deprecated.remove(&place);
            }
        }
        for (index, name) in restore.iter().enumerate() {
            if deprecate.contains(name) {
                found.push(Violation::new(
                    format!("restore_attributes[{index}]"),
                    format!("{:?} cannot be both deprecated and restored", shown(name)),
                ));
            }
        }
        deprecated
    }

    fn latest(&self) -> Option<&Revision> {
        self.revisions.last()
    }
}

fn check_count(field: &str, count: usize, found: &mut Vec<Violation>) {
    if count > MAX_ATTRIBUTES {
        found.push(Violation::new(field, too_many_attributes(count)));
    }
}

fn too_many_attributes(count: usize) -> String {
    format!("{count} attributes: 1 to {MAX_ATTRIBUTES} are possible")
}

fn check_attribute(path: &str, attribute: &Attribute, found: &mut Vec<Violation>) {
    let name_path = format!("{path}.name");
    check_name(&name_path, &attribute.name, found);
    check_description(
        &format!("{path}.description"),
        &attribute.description,
        found,
    );
    if RESERVED.contains(&attribute.name.as_str()) {
        found.push(Violation::new(
            &name_path,
            format!("{:?} is a column of every entity type", attribute.name),
        ));
    }
    if let AttributeKind::Decimal { precision, scale } = attribute.kind {
        if precision == 0 || precision > MAX_DECIMAL_DIGITS {
            found.push(Violation::new(
                format!("{path}.precision"),
                format!("{precision} digits: 1 to {MAX_DECIMAL_DIGITS} are possible"),
            ));
        } else if scale > precision {
            found.push(Violation::new(
                format!("{path}.scale"),
                format!("{scale} digits after the point of {precision} in all"),
            ));
        }
    }
}

fn check_name(field: &str, name: &str, found: &mut Vec<Violation>) {
    let mut bytes = name.bytes();
    let first_fits = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let rest_fits =
        bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !first_fits || !rest_fits || name.len() > MAX_NAME_BYTES {
        let shown = shown(name);
        found.push(Violation::new(
            field,
            format!("{shown:?} is not a name: [a-z_][a-z0-9_]*, at most {MAX_NAME_BYTES} bytes"),
        ));
    }
}

/// As much of a name as an error needs to show.
fn shown(name: &str) -> String {
    name.chars().take(MAX_NAME_BYTES + 1).collect()
}

fn check_description(field: &str, description: &str, found: &mut Vec<Violation>) {
    let size_bytes = description.len();
    if size_bytes > MAX_DESCRIPTION_BYTES {
        found.push(Violation::new(
            field,
            format!("{size_bytes} bytes: at most {MAX_DESCRIPTION_BYTES} are possible"),
        ));
    }
}
