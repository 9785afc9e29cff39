//! The rule of arrows: master, node and client never depend on one another, and session, which node and client share, depends
//! on none of them. Reads manifests line by line, not as TOML.

use super::ROLES;

/// The lines of `role`'s manifest that name another role, and a message for each.
pub(super) fn check(role: &str, manifest: &str) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        // A description may name other roles; only keys and paths are dependencies.
        if line.trim_start().starts_with("description") {
            continue;
        }
        for other in ROLES.into_iter().filter(|other| *other != role) {
            if line.contains(&format!("usher-{other}")) || line.contains(&format!("../{other}")) {
                findings.push((index + 1, format!("{role} depends on {other}: share through a crate below instead")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_between_roles_is_found_however_it_is_drawn() {
        let table: &[(&str, &[usize])] = &[
            (
                "[package]\nname = \"usher-node\"\ndescription = \"not usher-master\"\nusher-proto.workspace = true\n",
                &[],
            ),
            ("[dependencies]\nusher-master.workspace = true\n", &[2]),
            ("[dev-dependencies]\nusher-client = { path = \"../client\" }\n", &[2]),
            ("[dependencies]\nwatcher = { path = \"../master\" }\n", &[2]),
            ("[dependencies.usher-client]\nworkspace = true\n", &[1]),
            ("[dependencies]\n# usher-master.workspace = true\nusher-node-extra = \"1\"\n", &[]),
        ];
        for (manifest, lines) in table {
            let found: Vec<_> = check("node", manifest).into_iter().map(|(line, _)| line).collect();
            assert_eq!(&found, lines, "{manifest}");
        }
    }
}
