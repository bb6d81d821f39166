use super::*;

/// A desktop or server with systemd and cgroup v2 alone.
const UNIFIED: &str = "\
22 28 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:14 - proc proc rw
23 28 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
31 23 0:27 / /sys/fs/pstore rw,nosuid,nodev,noexec,relatime shared:10 - pstore pstore rw
";

/// Controllers in hierarchies of version 1 and beside them a cgroup2 without any.
const HYBRID: &str = "\
33 24 0:29 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
34 33 0:30 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw
35 33 0:31 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,memory
";

/// A container in the cgroup namespace of its host, which shows it its own part only; no optional fields.
const PART: &str = "\
612 600 0:26 /docker/4f5a /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate
";

fn place(mounts: &str, cgroups: &str) -> Option<(String, String)> {
    let (mount, path) = own(mounts.as_bytes(), cgroups.as_bytes())?;
    Some((mount.to_str()?.to_owned(), path.to_str()?.to_owned()))
}

fn found(mount: &str, path: &str) -> Option<(String, String)> {
    Some((mount.to_owned(), path.to_owned()))
}

#[test]
fn this_process_s_place_is_found() {
    let service = "0::/system.slice/app.service/main\n";
    let below = "system.slice/app.service/main";
    assert_eq!(place(UNIFIED, service), found("/sys/fs/cgroup", below));
    assert_eq!(place(UNIFIED, "0::/\n"), found("/sys/fs/cgroup", ""));
    let hybrid = "9:name=systemd:/\n4:memory:/app\n1:cpu:/\n0::/user.slice\n";
    assert_eq!(place(HYBRID, hybrid), found("/sys/fs/cgroup/unified", "user.slice"));
    assert_eq!(place(PART, "0::/docker/4f5a/init\n"), found("/sys/fs/cgroup", "init"));
    assert_eq!(place(PART, "0::/docker/4f5a\n"), found("/sys/fs/cgroup", ""));
}

#[test]
fn what_cannot_be_told_is_not_guessed() {
    assert_eq!(place(PART, "0::/docker/4f5abc\n"), None, "not in the part that is mounted");
    assert_eq!(place(UNIFIED, "0::/../other\n"), None, "outside of the namespace");
    assert_eq!(place(UNIFIED, "4:memory:/app\n"), None, "version 1 alone");
    assert_eq!(place("35 33 0:31 / /c rw - cgroup cgroup rw,memory\n", "0::/\n"), None);
    for garbage in ["", "-", " - ", "1 2 3 4 5", "1 2 3 / /m - cgroup2", "\n\n"] {
        let _ = place(garbage, "0::/\n");
        assert_eq!(place(UNIFIED, garbage), None);
    }
}

#[test]
fn odd_paths_are_read() {
    let odd = "30 23 0:26 /a\\040b /mnt/c\\011d\\134 rw shared:1 master:2 - cgroup2 none rw\n";
    assert_eq!(place(odd, "0::/a b/x y\n"), found("/mnt/c\td\\", "x y"));
    assert_eq!(unescaped(b"\\04"), b"\\04");
    assert_eq!(unescaped(b"a\\999"), b"a\\999");
}

/// A tree of plain files.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(cgroups: &[(&str, &str, &str)]) -> Self {
        let tree = tempfile::tempdir().unwrap();
        for (path, controllers, handed_on) in cgroups {
            let directory = tree.path().join(path);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("cgroup.controllers"), controllers).unwrap();
            fs::write(directory.join("cgroup.subtree_control"), handed_on).unwrap();
            fs::write(directory.join("cgroup.procs"), "").unwrap();
        }
        Self(tree)
    }

    fn choose(&self, path: &str) -> Result<String, String> {
        let chosen = choose(self.0.path(), Path::new(path))?;
        Ok(chosen.strip_prefix(self.0.path()).unwrap().to_str().unwrap().to_owned())
    }

    /// As systemd does for `Delegate=`; whether this file system can.
    fn mark(&self, path: &str) -> bool {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(self.0.path().join(path), "user.delegate", b"1", flags).is_ok()
    }
}

#[test]
fn the_cgroup_above_is_taken_where_it_is_delegated() {
    let offer = "cpu memory pids\n";
    let top = Tree::new(&[("", offer, "memory\n"), ("init", offer, "")]);
    assert_eq!(top.choose("init"), Ok(String::new()));

    let service = Tree::new(&[("app.service", offer, "cpu\n"), ("app.service/main", offer, "")]);
    if service.mark("app.service") {
        assert_eq!(service.choose("app.service/main"), Ok("app.service".to_owned()));
        let control = service.0.path().join("app.service/cgroup.subtree_control");
        // A plain file: what was written lies over what was there.
        assert!(fs::read_to_string(control).unwrap().starts_with("+memory"));
    }
    let root = Tree::new(&[("", offer, "")]);
    assert_eq!(root.choose(""), Ok(String::new()), "the root of the machine may have processes");
}

#[test]
fn what_is_somebody_else_s_is_left_alone() {
    let offer = "memory\n";
    let refused = |tree: &Tree, path: &str, why: &str| {
        let error = tree.choose(path).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    let slice = Tree::new(&[("app.slice", offer, "memory"), ("app.slice/app.service", offer, "")]);
    refused(&slice, "app.slice/app.service", "app.slice is not delegated");
    let without = Tree::new(&[("", "cpu pids\n", "cpu"), ("main", "cpu", "")]);
    refused(&without, "main", "no memory controller");
    refused(&Tree::new(&[]), "main", "no memory controller");
    let fixed = Tree::new(&[("", offer, ""), ("main", "", "")]);
    fs::remove_file(fixed.0.path().join("cgroup.subtree_control")).unwrap();
    refused(&fixed, "main", "cannot hand on");
    let foreign = Tree::new(&[("", offer, "memory"), ("main", "", "")]);
    fs::remove_file(foreign.0.path().join("cgroup.procs")).unwrap();
    refused(&foreign, "main", "cannot be written to");
}
