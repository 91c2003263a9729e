//! Jobs, as clients ask about them; the state machine is [`crate::cluster::job`].

use std::time::Duration;

use super::operation::Kind;
use super::{Asker, Coordinator};
use crate::cluster::job::{Durability, JobRequest, JobStatus, Jobs};
use crate::cluster::message::{Ask, Reply};

/// How long the record may lag behind what needs no durability before its answer: what is lost in between is learnt from
/// again (J2). Long against writing the record, short against the work.
const JOBS_LAG: Duration = Duration::from_secs(2);

impl Coordinator {
    pub(super) fn on_job(&mut self, asker: Asker, request: JobRequest) {
        let now_ms = self.now_ms();
        let (answer, durability) = self.jobs.on_request(request, now_ms);
        match durability {
            Durability::None => {}
            Durability::Soon => _ = self.jobs_unsaved.get_or_insert(self.clock),
            Durability::First => self.changed = true,
        }
        for job in self.jobs.take_forgotten() {
            self.drop_tables_of(&job.table(""));
        }
        self.answer(asker, Ok(Reply::Job { answer }));
    }

    /// Has the record written when jobs changed a while ago.
    pub(super) fn save_jobs(&mut self) {
        if self.jobs_unsaved.is_some_and(|since| self.clock >= since + JOBS_LAG) {
            self.changed = true;
        }
    }

    pub(super) fn job_statuses(&self) -> Vec<JobStatus> {
        self.jobs.statuses(self.now_ms())
    }

    /// Jobs as they are recorded: with everything that happened until now.
    pub(super) fn recorded_jobs(&self) -> Jobs {
        self.jobs.clone()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.as_millis()).unwrap_or(u64::MAX)
    }

    /// Nobody asks for the model of a job that is forgotten.
    fn drop_tables_of(&mut self, prefix: &str) {
        let names = self.catalog.tables().map(|(_, schema)| schema.name.clone());
        let names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
        for name in names {
            if let Some(table) = self.catalog.drop_table(&name) {
                self.changed = true;
                let (servers, until) = (self.present(), self.lease_of_undoing());
                let kind = Kind::Drop { table, why: None };
                self.launch(kind, Ask::DropTable { table }, None, servers, until);
            }
        }
    }
}
