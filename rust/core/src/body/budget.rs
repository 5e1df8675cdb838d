//! What all bodies of a process together may hold: memory, disk and descriptors. A [`Lease`] is a value whose drop
//! gives back what it took. Out of memory a sink spills; out of disk or descriptors its writer gets
//! [`Error::BudgetExceeded`] and its owner waits or fails.

use crate::{Error, Resource, Result};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One resource: a limit and what is taken of it. A number that nothing else depends on, so its atomics are Relaxed; no two
/// threads together take more than the limit, as each changes `used` in one step.
#[derive(Debug)]
pub struct Meter {
    limit: OnceLock<u64>,
    used: AtomicU64,
    peak: AtomicU64,
}

impl Meter {
    fn new(limit: Option<u64>) -> Self {
        let limit = limit.map_or_else(OnceLock::new, OnceLock::from);
        Self { limit, used: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// Unlimited until it is known.
    pub fn limit(&self) -> u64 {
        self.limit.get().copied().unwrap_or(u64::MAX)
    }

    fn lacks(&self, n: u64) -> bool {
        self.used().saturating_add(n) > self.limit()
    }

    fn take(&self, n: u64) -> bool {
        let limit = self.limit();
        let taken = self.used.fetch_update(Relaxed, Relaxed, |used| used.checked_add(n).filter(|sum| *sum <= limit));
        if let Ok(before) = taken {
            self.peak.fetch_max(before + n, Relaxed);
        }
        taken.is_ok()
    }

    /// Counts what is in use already, whether there was room for it or not.
    fn owe(&self, n: u64) {
        let before = self.used.fetch_add(n, Relaxed);
        self.peak.fetch_max(before + n, Relaxed);
    }

    fn give(&self, n: u64) {
        self.used.fetch_sub(n, Relaxed);
    }
}

/// Limits on memory and disk in bytes and on descriptors in number, shared by any number of sinks and threads.
#[derive(Debug)]
pub struct Budget {
    ram: Meter,
    disk: Meter,
    files: Meter,
}

impl Budget {
    /// `None` is the default: a quarter of the memory that this process may have; all of the free disk but 1 GiB or
    /// 5 %, whichever is more, measured when the first file is made; half of the soft limit on descriptors.
    pub fn new(ram: Option<u64>, disk: Option<u64>, files: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            ram: Meter::new(Some(ram.unwrap_or_else(|| memory_limit() / 4))),
            disk: Meter::new(disk),
            files: Meter::new(Some(files.unwrap_or_else(|| descriptor_limit() / 2))),
        })
    }

    /// The process's own, made at first use.
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Budget>> = OnceLock::new();
        SHARED.get_or_init(|| Self::new(None, None, None)).clone()
    }

    pub fn meter(&self, resource: Resource) -> &Meter {
        match resource {
            Resource::Ram => &self.ram,
            Resource::Disk => &self.disk,
            Resource::Files => &self.files,
        }
    }

    /// Fixes the default limit on disk by the file system of `dir`, if none was given.
    pub(super) fn settle_disk(&self, dir: &Path) {
        self.disk.limit.get_or_init(|| {
            rustix::fs::statvfs(dir).map_or(u64::MAX, |fs| disk_limit(fs.f_bavail.saturating_mul(fs.f_frsize)))
        });
    }
}

fn disk_limit(free: u64) -> u64 {
    free.saturating_sub((free / 20).max(1 << 30))
}

/// A part of a budget, given back when dropped.
#[derive(Debug)]
pub struct Lease {
    budget: Arc<Budget>,
    resource: Resource,
    amount: u64,
}

impl Lease {
    pub fn empty(budget: &Arc<Budget>, resource: Resource) -> Self {
        Self { budget: budget.clone(), resource, amount: 0 }
    }

    pub fn amount(&self) -> u64 {
        self.amount
    }

    pub(super) fn is_of(&self, budget: &Arc<Budget>) -> bool {
        Arc::ptr_eq(&self.budget, budget)
    }

    pub(super) fn has(&self, resource: Resource) -> bool {
        self.resource == resource && self.amount > 0
    }

    /// Whether it couldn't grow by so much now.
    pub fn lacks(&self, more: u64) -> bool {
        self.budget.meter(self.resource).lacks(more)
    }

    pub fn grow(&mut self, by: u64) -> Result<()> {
        let meter = self.budget.meter(self.resource);
        if by > 0 && !meter.take(by) {
            return Err(Error::BudgetExceeded {
                resource: self.resource,
                wanted: by,
                used: meter.used(),
                limit: meter.limit(),
                hopeless: self.amount.saturating_add(by) > meter.limit(),
            });
        }
        self.amount += by;
        Ok(())
    }

    fn shrink(&mut self, by: u64) {
        let by = by.min(self.amount);
        self.amount -= by;
        self.budget.meter(self.resource).give(by);
    }

    /// Makes the lease `amount` large, as that much is in use: over the limit, too, and then nobody gets any more.
    pub fn set(&mut self, amount: u64) {
        match amount.checked_sub(self.amount) {
            Some(more) => {
                self.budget.meter(self.resource).owe(more);
                self.amount = amount;
            }
            None => self.shrink(self.amount - amount),
        }
    }

    /// Splits all of it off, for an owner on another thread.
    pub fn take(&mut self) -> Self {
        let amount = std::mem::take(&mut self.amount);
        Self { budget: self.budget.clone(), resource: self.resource, amount }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shrink(self.amount);
    }
}

/// Bytes of memory that this process may have: the least of the machine's and of its control groups' limits.
pub fn memory_limit() -> u64 {
    let physical = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok().map(|kib| kib << 10)
    });
    // Where there is no /proc (macOS), a modest machine is assumed.
    let physical = physical.unwrap_or(8 << 30);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroup_limits(&groups, Path::new("/sys/fs/cgroup")).fold(physical, u64::min)
}

/// The limits of these control groups and those above them, version 2 (`memory.max`) and version 1 (cgroups(7)).
fn cgroup_limits(groups: &str, mounted: &Path) -> impl Iterator<Item = u64> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => (mounted.to_owned(), "memory.max"),
            list if list.split(',').any(|c| c == "memory") => (mounted.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        for ancestor in Path::new(path).ancestors() {
            let below = ancestor.strip_prefix("/").unwrap_or(ancestor);
            files.push(root.join(below).join(file));
        }
    }
    files.into_iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
}

fn descriptor_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Place;

    #[test]
    fn a_dropped_lease_gives_back_all_it_took() {
        let budget = Budget::new(Some(100), None, None);
        let mut lease = Lease::empty(&budget, Resource::Ram);
        lease.grow(20).unwrap();
        lease.grow(40).unwrap();
        let other = lease.take();
        assert_eq!((lease.amount(), other.amount(), budget.ram.used()), (0, 60, 60));
        drop((lease, other));
        assert_eq!((budget.ram.used(), budget.ram.peak()), (0, 60));
    }

    #[test]
    fn over_the_limit_names_the_resource_and_takes_nothing() {
        let budget = Budget::new(None, None, Some(2));
        let mut lease = Lease::empty(&budget, Resource::Files);
        lease.grow(2).unwrap();
        let message = lease.grow(1).unwrap_err().to_string();
        assert_eq!(message, "no budget for 1 more of files: 2 of 2 are in use (Budget.files)");
        assert_eq!(budget.files.used(), 2);
    }

    #[test]
    fn what_is_over_the_limit_by_itself_is_told_from_what_may_get_room() {
        let budget = Budget::new(Some(100), None, None);
        let [mut lease, mut other] = [(); 2].map(|()| Lease::empty(&budget, Resource::Ram));
        lease.grow(60).unwrap();
        let mut is_hopeless = |by| matches!(other.grow(by), Err(Error::BudgetExceeded { hopeless: true, .. }));
        assert_eq!([41, 100, 101, u64::MAX].map(&mut is_hopeless), [false, false, true, true]);
        assert!(matches!(lease.grow(41), Err(Error::BudgetExceeded { hopeless: true, .. })));
    }

    #[test]
    fn what_is_in_use_counts_over_the_limit_too_and_nothing_more_is_given() {
        let budget = Budget::new(Some(100), None, None);
        let [mut lease, mut other] = [(); 2].map(|()| Lease::empty(&budget, Resource::Ram));
        lease.grow(60).unwrap();
        lease.set(150);
        assert_eq!((lease.amount(), budget.ram.used(), budget.ram.peak()), (150, 150, 150));
        assert!(matches!(other.grow(1), Err(Error::BudgetExceeded { used: 150, limit: 100, .. })));
        other.grow(0).unwrap();
        lease.set(50);
        assert!(!lease.lacks(50) && lease.lacks(51));
        other.grow(50).unwrap();
        drop((lease, other));
        assert_eq!(budget.ram.used(), 0);
    }

    #[test]
    fn defaults_are_bounds() {
        let budget = Budget::new(None, None, None);
        budget.settle_disk(Path::new("/"));
        for resource in [Resource::Ram, Resource::Disk, Resource::Files] {
            let limit = budget.meter(resource).limit();
            assert!(limit > 0 && limit < u64::MAX, "{resource:?} {limit}");
        }
        assert!(budget.ram.limit() <= memory_limit() / 4);
    }

    #[test]
    fn all_of_the_free_disk_is_a_bodys_but_a_gibibyte_or_a_twentieth() {
        const GIB: u64 = 1 << 30;
        assert_eq!([0, GIB / 2, 10 * GIB, 100 * GIB].map(disk_limit), [0, 0, 9 * GIB, 95 * GIB]);
    }

    #[test]
    fn the_limits_of_control_groups_and_of_those_above_them_are_found() {
        let root = Place::new();
        let put = |file: &str, text: &str| {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("memory.max", "max\n");
        put("outer/memory.max", "1000\n");
        put("outer/inner/memory.max", "2000\n");
        put("memory/memory.limit_in_bytes", "9223372036854771712\n");
        put("memory/outer/memory.limit_in_bytes", "500\n");
        let found = |groups: &str| cgroup_limits(groups, &root).collect::<Vec<_>>();
        assert_eq!(found("0::/outer/inner\n"), [2000, 1000]);
        assert_eq!(found("0::/\n"), []);
        // A group that this process can't see the files of still has those above it.
        assert_eq!(found("0::/outer/unseen\n"), [1000]);
        assert_eq!(found("5:cpu,cpuacct:/outer\n4:memory:/outer\n1:name=systemd:/outer\n"), [500, 9223372036854771712]);
        assert_eq!(found("4:cpu,memory:/outer\n0::/outer\n"), [500, 9223372036854771712, 1000]);
        assert_eq!(found("nonsense"), []);
    }
}
