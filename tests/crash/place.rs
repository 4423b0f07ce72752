//! A mount namespace with a small file system in it, so that a disk can be full without harm.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Lives as long as its holder, a shell that mounts and then waits.
pub struct Place {
    holder: Child,
    orders: ChildStdin,
    /// As seen from inside.
    at: PathBuf,
    is_root: bool,
}

impl Place {
    /// A file system of so many kibibytes at a directory; `None` where the kernel does not let us.
    pub fn with_disk(at: &Path, kibibytes: u32) -> Option<Place> {
        let is_root = can(&["-m"]);
        if !is_root && !can(&["-Urm"]) {
            eprintln!("NOT TESTED: no mount namespace can be had here");
            return None;
        }
        std::fs::create_dir_all(at).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={kibibytes}k,mode=700 none {at} && echo mounted && while read line; do eval \"$line\"; echo done; done",
            at = at.display()
        );
        let mut holder = Command::new("unshare")
            .args([if is_root { "-m" } else { "-Urm" }, "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = holder.stdin.take().unwrap();
        let mut place = Place { holder, orders, at: at.to_owned(), is_root };
        place.answered("mounted");
        Some(place)
    }

    /// A command that is run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--mount"]);
        if !self.is_root {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg(program);
        command
    }

    /// Has the shell inside do something.
    pub fn run(&mut self, line: &str) {
        writeln!(self.orders, "{line}").unwrap();
        self.answered("done");
    }

    /// Takes all the room that there is.
    pub fn fill(&mut self) {
        let at = self.at.display().to_string();
        self.run(&format!("dd if=/dev/zero of={at}/filler bs=1024 2>/dev/null"));
    }

    /// Gives back so many kibibytes of it.
    pub fn make_some_room(&mut self, kibibytes: u32) {
        let at = self.at.display().to_string();
        self.run(&format!("truncate -s -{kibibytes}K {at}/filler"));
    }

    pub fn make_room(&mut self) {
        let at = self.at.display().to_string();
        self.run(&format!("rm {at}/filler"));
    }

    pub fn remount(&mut self, how: &str) {
        let at = self.at.display().to_string();
        self.run(&format!("mount -o remount,{how} {at}"));
    }

    fn answered(&mut self, word: &str) {
        use std::io::Read;
        let out = self.holder.stdout.as_mut().unwrap();
        let mut answer = vec![0; word.len() + 1];
        out.read_exact(&mut answer).unwrap();
        assert_eq!(answer, format!("{word}\n").as_bytes());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Both fail where it has ended.
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

fn can(arguments: &[&str]) -> bool {
    let status = Command::new("unshare").args(arguments).arg("true").stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
