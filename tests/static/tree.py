"""What the checks look at: the files of a checkout, as text."""
import pathlib
import subprocess

SKIPPED_FOLDERS = {".git", "__pycache__", ".pytest_cache"}


class Tree:
    """The files of a checkout: those that git tracks or would (ignored ones are left out), or,
    where there is no git, all."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.files = sorted(self._git_files() or self._all_files())

    def _git_files(self):
        if not (self.root / ".git").exists():
            return []
        listed = subprocess.run(
            ["git", "-C", self.root, "ls-files", "-z", "--cached", "--others",
             "--exclude-standard"], capture_output=True, text=True)
        return [name for name in listed.stdout.split("\0") if name and (self.root / name).is_file()]

    def _all_files(self):
        names = [path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file()]
        return [str(name) for name in names if not SKIPPED_FOLDERS & set(name.parts)]

    def path(self, name):
        return self.root / name

    def having(self, *suffixes):
        return [name for name in self.files if name.endswith(suffixes)]

    def text(self, name):
        """None for what is no text."""
        data = (self.root / name).read_bytes()
        try:
            return None if b"\0" in data else data.decode()
        except UnicodeDecodeError:
            return None

    def lines(self, name):
        """(number, line) pairs."""
        return enumerate((self.text(name) or "").splitlines(), 1)

    def scripts(self):
        """Shell scripts, by their first line."""
        return [name for name in self.files
                if (self.text(name) or "").startswith(("#!/bin/bash", "#!/bin/sh"))]

    def folders(self):
        """Every folder that has a file somewhere below it."""
        found = set()
        for name in self.files:
            found.update(str(parent) for parent in pathlib.PurePath(name).parents)
        return sorted(found - {"."})
