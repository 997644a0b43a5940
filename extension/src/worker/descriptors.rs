//! The file descriptors of a dispatcher: each connection takes one, and so do the files of PostgreSQL in the same process.

/// Connections at most, however many descriptors there are.
const MOST: usize = 65_536;

/// Raises the limit of this process as far as it may be: a service is usually started with 1024, and may have more.
pub fn raise() {
    if let Some(mut limit) = limit().filter(|limit| limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: reads the structure. Where it is refused the old limit stays.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
}

/// How many of them connections may take: three quarters.
pub fn for_connections() -> usize {
    let all = limit().and_then(|limit| usize::try_from(limit.rlim_cur).ok()).unwrap_or(1024);
    (all - all / 4).clamp(16, MOST)
}

fn limit() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes the structure.
    (unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0).then_some(limit)
}
