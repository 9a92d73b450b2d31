//! Wakes publishers when their messages are due, to the microsecond: the runtime's own timers know
//! only milliseconds, which would be most of a good broker's latency.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use crate::shared::Shared;
use crate::workload::Workload;

/// Returns after `duration`, during which each publisher was woken whenever a message was due.
pub async fn pace(workload: &Workload, shared: &Rc<Shared>, duration: Duration) {
    let start_ns = shared.phase_start_ns.get();
    let end_ns = start_ns + u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2);
    let publishers = u64::from(workload.publishers);
    let Some(interval_ns) = workload.interval_ns() else {
        return sleep(duration).await;
    };
    let step_ns = (interval_ns / publishers).max(1);
    let timer = Timer::new();
    let mut turn = 0;
    loop {
        let due_ns = start_ns + turn / publishers * interval_ns + turn % publishers * step_ns;
        if due_ns >= end_ns {
            break;
        }
        let now_ns = shared.now_ns();
        if due_ns > now_ns {
            wait(timer.as_ref(), Duration::from_nanos(due_ns - now_ns)).await;
        }
        shared.wake(usize::try_from(turn % publishers).unwrap_or(0));
        turn += 1;
    }
    let rest_ns = end_ns.saturating_sub(shared.now_ns());
    sleep(Duration::from_nanos(rest_ns)).await;
}

async fn wait(timer: Result<&Timer, &io::Error>, duration: Duration) {
    let waited = match timer {
        Ok(timer) => timer.wait(duration).await.is_ok(),
        Err(_) => false,
    };
    if !waited {
        sleep(duration).await;
    }
}

/// A timer of the kernel.
struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "sound, since the descriptor is owned; what replaces it is unsafe"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    async fn wait(&self, duration: Duration) -> io::Result<()> {
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = Timespec {
            tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(duration.subsec_nanos()),
        };
        let timer = Itimerspec {
            it_interval: none,
            it_value: value,
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &timer)?;
        let mut ready = self.0.readable().await?;
        let mut expirations = [0; 8];
        rustix::io::read(self.0.get_ref(), &mut expirations)?;
        ready.clear_ready();
        Ok(())
    }
}
