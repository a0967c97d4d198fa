//! Finds the container in which Modelgate itself runs.

use std::fs;

/// The id of Modelgate's own container, if it runs in Docker or Podman.
///
/// Docker mounts `/etc/hostname` and similar files from `…/containers/<id>/hostname`, Podman from
/// `…/overlay-containers/<id>/userdata/hostname`, whatever the container's host name is.
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
        // Parts before it may also be ids, of a volume in which a Docker keeps its data.
        let is_id = |part: &&str| part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit());
        root.rsplit('/').find(is_id).map(str::to_owned)
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
        let podman = format!(
            "911 903 0:24 /containers/storage/overlay-containers/{id}/userdata/hostname /etc/hostname rw - tmpfs tmpfs rw"
        );
        assert_eq!(from_mountinfo(&podman), Some(id.clone()));
        let nested = format!(
            "536 528 8:1 /docker/volumes/{}/_data/containers/{id}/hosts /etc/hosts rw - ext4 /dev/sda1 rw",
            "ab".repeat(32)
        );
        assert_eq!(from_mountinfo(&nested), Some(id.clone()));
        let on_the_host = format!(
            "99 1 0:50 /containers/{id} /var/lib/docker/containers/{id}/mounts/shm rw - tmpfs shm rw"
        );
        assert_eq!(from_mountinfo(&on_the_host), None);
    }
}
