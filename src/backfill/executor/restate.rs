//! Restating: a new backfill with an earlier one's settings.

use super::*;
use crate::{
    backfill::model::{DependencyShape, Reprocess, TransformPlan, TransformRef},
    time::ValidTime,
};

/// What of a backfill is to be computed anew.
#[derive(Debug, Clone, Copy, Default)]
pub struct Restatement {
    /// Start of the first partition. `None`: the backfill's.
    pub from: Option<ValidTime>,
    /// End of the last one, exclusive. `None`: the backfill's.
    pub to: Option<ValidTime>,
    /// The transform's revision. `None`: the backfill's.
    pub revision: Option<u32>,
}

impl Handle {
    /// What [`Handle::restate`] would do.
    ///
    /// # Errors
    /// As [`Handle::restate`].
    pub async fn plan_restatement(&self, name: &str, what: Restatement) -> Result<Planned> {
        let (spec, extended_from, _) = self.restated(name, what)?;
        self.plan_extended(&spec, extended_from).await
    }

    /// Creates a backfill with the settings of `name` over all or a part of its range; every partition of it runs. Where each
    /// partition reads what the earlier ones wrote, it goes on to the end of the range. **Durability**: as
    /// [`Handle::create`].
    ///
    /// # Errors
    /// As [`Handle::create`]; [`Error::NotFound`], [`Error::RestateOutside`].
    pub async fn restate(
        &self,
        name: &str,
        what: Restatement,
        request_id: Option<String>,
        expected_plan_hash: Option<&str>,
    ) -> Result<(Arc<Record>, State)> {
        let (spec, extended_from, parent) = self.restated(name, what)?;
        let existing = self
            .made_by(request_id.as_deref(), &spec, Some(&parent))
            .await?;
        if let Some(existing) = existing {
            return Ok(existing);
        }
        let planned = self.plan_extended(&spec, extended_from).await?;
        self.start(spec, planned, Some(parent), request_id, expected_plan_hash)
            .await
    }

    /// The spec of a restatement; the end that was asked for, if it had to be extended.
    fn restated(
        &self,
        name: &str,
        what: Restatement,
    ) -> Result<(BackfillSpec, Option<ValidTime>, Parent)> {
        let record = Arc::clone(&self.watched(name)?.record);
        let from = what.from.unwrap_or(record.spec.from);
        let asked_to = what.to.unwrap_or(record.spec.to);
        if from < record.spec.from || asked_to > record.spec.to {
            return Err(Error::RestateOutside {
                parent: record.name.clone(),
                from,
                to: asked_to,
                parent_from: record.spec.from,
                parent_to: record.spec.to,
            });
        }
        let plan = &record.plan;
        if what.revision.is_some() && plan.transforms.len() > 1 {
            return Err(Error::invalid(
                "revision",
                format!("backfill {} has several transforms", record.name),
            ));
        }
        let transforms = plan.transforms.iter().map(|one| TransformRef {
            name: one.transform.clone(),
            revision: Some(what.revision.unwrap_or(one.revision)),
        });
        let mut transforms: Vec<_> = transforms.collect();
        transforms.sort_by(|a, b| a.name.cmp(&b.name));
        let in_order = |one: &TransformPlan| one.shape == DependencyShape::Sequential;
        let extends =
            plan.transforms.iter().any(in_order) && from < asked_to && asked_to < record.spec.to;
        let spec = BackfillSpec {
            from,
            to: if extends { record.spec.to } else { asked_to },
            transforms,
            reprocess: Reprocess::Completed,
            // What the parent asked again is known now.
            refresh_calls: false,
            ..record.spec.clone()
        };
        let root = match &record.parent {
            Some(parent) => parent.root.clone(),
            None => record.name.clone(),
        };
        let parent = Parent {
            name: record.name.clone(),
            root,
        };
        Ok((spec, extends.then_some(asked_to), parent))
    }

    async fn plan_extended(
        &self,
        spec: &BackfillSpec,
        extended_from: Option<ValidTime>,
    ) -> Result<Planned> {
        let mut planned = self.plan(spec).await?;
        if let Some(asked_to) = extended_from {
            let extra = planned.plan.partitions.iter();
            let extra = extra.filter(|it| it.partition.start >= asked_to).count();
            planned.plan.warnings.push(format!(
                "each partition reads what the earlier ones wrote, so the {extra} that follow up to {} are restated too",
                spec.to
            ));
        }
        Ok(planned)
    }
}
