"""TLS material for tests, made by certtool and psktool: authorities, servers, clients, revocations.

Days are relative to today: valid(-10, -1) expired yesterday. Keys are elliptic: made in no time."""

import secrets
import subprocess
from datetime import datetime, timedelta, timezone


def certtool(*args):
    done = subprocess.run(["certtool", *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, f"certtool {args}: {done.stderr}"
    return done.stdout


def day(offset):
    return (datetime.now(timezone.utc) + timedelta(days=offset)).strftime("%Y-%m-%d %H:%M:%S")


class Authority:
    """One that signs. `folder` gets ca-cert.pem and ca-key.pem. key: a file, of the authority that
    this one takes over from."""

    def __init__(self, folder, name="nbdd test authority", *, first=-1, last=365, key=None,
                 usages=("cert_signing_key", "crl_signing_key")):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.key = folder / "ca-key.pem"
        self.cert = folder / "ca-cert.pem"
        self.serial = 1
        if key:
            self.key.write_text(key.read_text())
        else:
            certtool("--generate-privkey", "--key-type=ecdsa", "--outfile", self.key)
        template = self.template(folder / "ca.tmpl", name, [], ["ca", *usages], first, last)
        certtool(
            "--generate-self-signed", "--load-privkey", self.key,
            "--template", template, "--outfile", self.cert,
        )

    def template(self, path, name, attributes, lines, first=-1, last=365):
        self.serial += 1
        rows = [f'cn = "{name}"', *attributes, f"serial = {self.serial}"]
        rows += [f'activation_date = "{day(first)}"', f'expiration_date = "{day(last)}"', *lines]
        path.write_text("\n".join(rows) + "\n")
        return path

    def issue(self, folder, role, name, *, organization=None, first=-1, last=365, usage=None,
              hosts=("localhost",), self_signed=False):
        """role: "server" or "client": folder/ROLE-cert.pem, ROLE-key.pem and ca-cert.pem."""
        folder.mkdir(parents=True, exist_ok=True)
        key, cert = folder / f"{role}-key.pem", folder / f"{role}-cert.pem"
        certtool("--generate-privkey", "--key-type=ecdsa", "--outfile", key)
        attributes = [f'organization = "{organization}"'] if organization else []
        lines = [f'dns_name = "{host}"' for host in hosts] + ['ip_address = "127.0.0.1"']
        lines += ["signing_key", "encryption_key"]
        usages = {"server": "tls_www_server", "client": "tls_www_client"}
        lines.append(usages[usage or role])
        template = self.template(folder / f"{role}.tmpl", name, attributes, lines, first, last)
        if self_signed:
            certtool("--generate-self-signed", "--load-privkey", key, "--template", template,
                     "--outfile", cert)
        else:
            certtool("--generate-certificate", "--load-privkey", key,
                     "--load-ca-certificate", self.cert, "--load-ca-privkey", self.key,
                     "--template", template, "--outfile", cert)
        (folder / "ca-cert.pem").write_text(self.cert.read_text())
        return folder

    def revoke(self, path, *certs, first=0, last=30):
        """A list of revocations at path that has these certificates (files)."""
        together = self.folder / "revoked.pem"
        together.write_text("".join(cert.read_text() for cert in certs))
        template = self.folder / "crl.tmpl"
        self.serial += 1
        template.write_text(
            f'crl_this_update_date = "{day(first)}"\ncrl_next_update_date = "{day(last)}"\n'
            f"crl_number = {self.serial}\n"
        )
        args = ["--generate-crl", "--load-ca-privkey", self.key, "--load-ca-certificate", self.cert,
                "--template", template, "--outfile", path]
        if certs:
            args += ["--load-certificate", together]
        certtool(*args)
        return path


def fingerprint(cert):
    """SHA-256 as tls.show has it."""
    done = certtool("--fingerprint", "--hash=sha256", "--infile", cert).strip()
    return ":".join(done[i : i + 2] for i in range(0, len(done), 2)).upper()


def psk_file(path, *users):
    """A key file for the users; answers {user: hexadecimal key}."""
    keys = {user: secrets.token_hex(32) for user in users}
    path.write_text("".join(f"{user}:{key}\n" for user, key in keys.items()))
    path.chmod(0o600)
    return keys
