//! What starts next: tasks of neighbouring partitions.

use super::*;

impl Step<'_> {
    /// Starts `count` tasks, or as many as may start.
    pub(super) fn fill(&mut self, count: usize) {
        for _ in 0..count.min(self.state.wanted(&self.record.plan)) {
            let indices = next_task(&self.record.plan, self.state);
            if indices.is_empty() {
                return;
            }
            self.start_task(&indices);
        }
    }

    fn start_task(&mut self, indices: &[u32]) {
        let mut attempts = Vec::with_capacity(indices.len());
        for &index in indices {
            let attempt = self.run(index).map_or(0, |run| run.attempt) + 1;
            let ready_micros = self.state.ready_micros.get(&index).copied();
            let waited = self.now_micros - ready_micros.unwrap_or(self.now_micros);
            self.change(Change::Partition(PartitionChange {
                slot_wait_micros: u64::try_from(waited).unwrap_or(0),
                ..PartitionChange::plain(index, PartitionState::Running, attempt)
            }));
            attempts.push((index, attempt));
        }
        self.state.compute(indices);
        self.act(Action::StartTask { attempts });
    }
}

/// The partitions that the next task computes: the first that may start, and neighbours of it that may start too.
fn next_task(plan: &Plan, state: &State) -> Vec<u32> {
    let first = if plan.run_backwards {
        state.pending.last()
    } else {
        state.pending.first()
    };
    let Some(&first) = first else {
        return Vec::new();
    };
    let mut task = vec![first];
    if plan.partitions_per_task > 1 {
        if plan.run_backwards {
            add_neighbours(plan, state.pending.range(..first).rev(), &mut task);
        } else {
            add_neighbours(plan, state.pending.range(first + 1..), &mut task);
        }
    }
    task
}

fn add_neighbours<'a>(plan: &Plan, others: impl Iterator<Item = &'a u32>, task: &mut Vec<u32>) {
    let planned = |index: u32| plan.partitions.get(index as usize);
    for &index in others {
        if task.len() >= plan.partitions_per_task as usize {
            return;
        }
        let (Some(last), Some(next)) =
            (task.last().and_then(|&last| planned(last)), planned(index))
        else {
            return;
        };
        if next.transform != last.transform {
            continue;
        }
        let (last, next) = (&last.partition, &next.partition);
        if last.end != next.start && next.end != last.start {
            return;
        }
        task.push(index);
    }
}
