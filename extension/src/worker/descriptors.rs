//! The file descriptors of a dispatcher: each connection takes one, and so do PostgreSQL's files in the same process.

/// Most connections, however many descriptors there are.
const MOST: usize = 65_536;

/// Raises the limit of this process to its hard limit. A service is usually started with a limit of 1024, and may have more.
pub fn raise() {
    if let Some(mut limit) = limit().filter(|limit| limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: reads the structure. If the call is refused, the old limit stays.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
}

/// Number of descriptors that connections may take: three quarters of all.
pub fn for_connections() -> usize {
    let all = limit().and_then(|limit| usize::try_from(limit.rlim_cur).ok()).unwrap_or(1024);
    (all - all / 4).clamp(16, MOST)
}

fn limit() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes the structure.
    (unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0).then_some(limit)
}
