//! The threads that tests run on. They stay until the end: the harness's own threads end when there is
//! no test left for them, and a broker ends with the thread that started it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::Failed;

type Outcome = Result<(), String>;
type Job = Box<dyn FnOnce() -> Outcome + Send>;

/// A fixed number of threads.
#[derive(Clone)]
pub(crate) struct Workers {
    jobs: SyncSender<(Job, SyncSender<Outcome>)>,
}

impl Workers {
    /// Starts them.
    pub(crate) fn new(threads: usize) -> Self {
        let (jobs, queue) = sync_channel(threads);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || work(&queue));
        }
        Self { jobs }
    }

    /// Runs a test on one of them; a panic is a failure.
    ///
    /// # Errors
    /// When the test failed.
    pub(crate) fn run(&self, job: impl FnOnce() -> Outcome + Send + 'static) -> Result<(), Failed> {
        let (answer, outcome) = sync_channel(1);
        let job: Job = Box::new(job);
        let gone = |_| Failed::from("a thread of the tests is gone");
        self.jobs
            .send((job, answer))
            .map_err(|_gone| Failed::from("all threads of the tests are gone"))?;
        outcome.recv().map_err(gone)?.map_err(Failed::from)
    }
}

fn work(queue: &Mutex<Receiver<(Job, SyncSender<Outcome>)>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, answer)) = next else {
            return;
        };
        let outcome = catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panicked: {}", text.unwrap_or_default()))
        });
        // Nobody waits any more when the run was stopped.
        answer.send(outcome).ok();
    }
}
