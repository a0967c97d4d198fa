//! Which container Modelgate itself runs in.

use std::fs;

/// The id of our own container, if we are in one that Docker runs.
///
/// Docker mounts `/etc/hostname` and its like from `…/containers/<id>/hostname`, whatever the
/// container's host name is.
pub(crate) fn container_id() -> Option<String> {
    from_mountinfo(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

fn from_mountinfo(mountinfo: &str) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        // proc(5): the fourth field is the root of the mount in its file system, the fifth where it is mounted.
        let mut fields = line.split(' ').skip(3);
        let (root, mounted_at) = (fields.next()?, fields.next()?);
        if !matches!(mounted_at, "/etc/hostname" | "/etc/hosts" | "/etc/resolv.conf") {
            return None;
        }
        let id = root.split("/containers/").nth(1)?.split('/').next()?;
        (id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_and_outside() {
        let id = "0123456789abcdef".repeat(4);
        let inside = format!(
            "536 528 8:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/sda1 rw"
        );
        assert_eq!(from_mountinfo(&inside), Some(id.clone()));
        let on_the_host = format!(
            "99 1 0:50 /containers/{id} /var/lib/docker/containers/{id}/mounts/shm rw - tmpfs shm rw"
        );
        assert_eq!(from_mountinfo(&on_the_host), None);
    }
}
