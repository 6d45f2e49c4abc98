"""Checks what k8s/ renders to, and starts the binary as it says.

    python tests/k8s/check.py --binary target/release/hindcast

Every object is validated against Kubernetes' published schemas, and what objects name of each other is looked up. Then each
overlay's server runs in the image's root file system (k8s/rootfs), read-only and without privileges, in a network of its own,
with exactly the arguments, files and environment of its pod; its ports and probes must answer, and what the CronJobs run must
end well against it. Needs Linux, kubectl, and leave to make namespaces.
"""

import argparse
import datetime
import fcntl
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
OVERLAYS = ["dev", "production"]
SCHEMA = "1.31"
USER = 65532
# Kinds that Kubernetes itself has no schema of, and who brings them.
FOREIGN = {"ServiceMonitor": "the Prometheus operator"}
# Secrets that are made by hand, as docs/kubernetes.md says.
BY_HAND = {"hindcast-tls": {"tls.crt", "tls.key", "ca.crt"}, "hindcast-tokens": {"tokens.toml", "backup.token"}}


def render(overlay):
    made = subprocess.run(
        ["kubectl", "kustomize", ROOT / "k8s/overlays" / overlay], check=True, capture_output=True, text=True
    )
    return [one for one in yaml.safe_load_all(made.stdout) if one]


class Overlay:
    """What an overlay renders to, and what its objects say of each other."""

    def __init__(self, name):
        self.name = name
        self.objects = render(name)

    def of(self, kind):
        return [one for one in self.objects if one["kind"] == kind]

    def templates(self):
        """Every pod that is described, with the labels it will have."""
        sets = [one["spec"]["template"] for one in self.of("StatefulSet")]
        jobs = [one["spec"]["jobTemplate"]["spec"]["template"] for one in self.of("CronJob")]
        return sets + jobs

    def selected(self, selector):
        return [
            one for one in self.templates() if selector.items() <= one["metadata"]["labels"].items()
        ]

    def check(self):
        names = [(one["kind"], one["metadata"]["name"]) for one in self.objects]
        assert len(names) == len(set(names)), names
        for one in self.objects:
            if one["kind"] not in FOREIGN:
                kubernetes_validate.validate(one, SCHEMA, strict=True)
            if one["kind"] != "Namespace":
                assert one["metadata"]["namespace"] == self.of("Namespace")[0]["metadata"]["name"], one
        for service in self.of("Service"):
            self.check_service(service)
        for policy in self.of("NetworkPolicy"):
            ports = self.ports(policy["spec"]["podSelector"]["matchLabels"])
            for rule in policy["spec"]["ingress"]:
                assert {port["port"] for port in rule["ports"]} <= ports, rule
        for budget in self.of("PodDisruptionBudget"):
            assert self.selected(budget["spec"]["selector"]["matchLabels"]), budget
        for monitor in self.of("ServiceMonitor"):
            wanted = monitor["spec"]["selector"]["matchLabels"].items()
            found = [one for one in self.of("Service") if wanted <= one["metadata"]["labels"].items()]
            assert len(found) == 1, (monitor, found)
            ports = {port["name"] for port in found[0]["spec"]["ports"]}
            assert {end["port"] for end in monitor["spec"]["endpoints"]} <= ports, monitor
        for server in self.of("StatefulSet"):
            assert server["spec"]["replicas"] == 1
            labels = server["spec"]["selector"]["matchLabels"]
            assert self.selected(labels) == [server["spec"]["template"]], labels
            headless = [one for one in self.of("Service") if one["metadata"]["name"] == server["spec"]["serviceName"]]
            assert headless and headless[0]["spec"]["clusterIP"] == "None"
        for template in self.templates():
            self.check_pod(template["spec"])

    def ports(self, selector):
        pods = self.selected(selector)
        assert len(pods) == 1, (selector, pods)
        return {port["name"] for box in pods[0]["spec"]["containers"] for port in box["ports"]}

    def check_service(self, service):
        ports = self.ports(service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports, service

    def check_pod(self, pod):
        """The restricted standard, and that every mounted thing is there."""
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] == USER
        assert security["seccompProfile"]["type"] == "RuntimeDefault"
        volumes = {one["name"] for one in pod.get("volumes", [])}
        claims = {
            one["metadata"]["name"] for server in self.of("StatefulSet") for one in server["spec"]["volumeClaimTemplates"]
        }
        for box in pod["containers"]:
            own = box["securityContext"]
            assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"]
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= box["resources"]["requests"].keys() and "memory" in box["resources"]["limits"]
            for mount in box["volumeMounts"]:
                assert mount["name"] in volumes | claims, mount
        for volume in pod.get("volumes", []):
            for _ in self.files(volume):
                pass

    def files(self, volume):
        """The files that a volume has: (name in the folder, contents or the secret's key)."""
        if "configMap" in volume:
            found = [one for one in self.of("ConfigMap") if one["metadata"]["name"] == volume["configMap"]["name"]]
            assert found, volume
            yield from ((name, text) for name, text in found[0]["data"].items())
        elif "persistentVolumeClaim" in volume:
            claims = {one["metadata"]["name"] for one in self.of("PersistentVolumeClaim")}
            assert volume["persistentVolumeClaim"]["claimName"] in claims, volume
        else:
            sources = volume["projected"]["sources"] if "projected" in volume else [volume]
            for source in sources:
                secret = source["secret"]
                name = secret.get("secretName") or secret["name"]
                for item in secret["items"]:
                    assert item["key"] in BY_HAND[name], (name, item)
                    yield item["path"], (name, item["key"])


class Secrets:
    """What a person makes by hand."""

    def __init__(self, binary, hosts):
        certificate, key, authority = certificates(hosts)
        token = json.loads(
            subprocess.run(
                [binary, "token", "new", "backup", "--role", "admin", "-o", "json"],
                check=True, capture_output=True, text=True,
            ).stdout
        )
        row = f'[[token]]\nname = "{token["name"]}"\nsha256 = "{token["sha256"]}"\nrole = "{token["role"]}"\n'
        self.values = {
            ("hindcast-tls", "tls.crt"): certificate,
            ("hindcast-tls", "tls.key"): key,
            ("hindcast-tls", "ca.crt"): authority,
            ("hindcast-tokens", "tokens.toml"): row,
            ("hindcast-tokens", "backup.token"): token["token"],
        }
        assert {key for key in self.values} == {(name, key) for name, keys in BY_HAND.items() for key in keys}


def certificates(hosts):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.timezone.utc)

    def make(name, issuer, issuer_key, extensions):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return key, subject, builder.sign(issuer_key or key, hashes.SHA256())

    def pem(one):
        return one.public_bytes(serialization.Encoding.PEM).decode()

    ca_key, ca_name, ca = make("test authority", None, None, [(x509.BasicConstraints(True, None), True)])
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    key, _, leaf = make("hindcast", ca_name, ca_key, [(names, False), (x509.BasicConstraints(False, None), True)])
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem(leaf), private.decode(), pem(ca)


class Pod:
    """A container of a pod: the image's root file system with the pod's volumes, and its arguments."""

    def __init__(self, overlay, spec, claims, secrets, binary, work):
        (self.box,) = spec["containers"]
        self.root = work / f"root-{self.box['name']}"
        subprocess.run([ROOT / "k8s/rootfs", binary, self.root], check=True)
        hosts = " ".join(one["metadata"]["name"] for one in overlay.of("Service"))
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost {hosts}\n")
        volumes = {one["name"]: one for one in spec.get("volumes", [])}
        self.mounts = []
        for mount in self.box["volumeMounts"]:
            source = work / f"volume-{self.box['name']}-{mount['name']}"
            source.mkdir()
            if mount["name"] not in claims:
                for name, value in overlay.files(volumes[mount["name"]]):
                    (source / name).write_text(secrets.values[value] if isinstance(value, tuple) else value)
            for path in [source, *source.iterdir()]:
                os.chown(path, USER, USER)
            self.mounts.append((source, mount["mountPath"], mount.get("readOnly", False)))
            target = self.root / mount["mountPath"].lstrip("/")
            target.mkdir(parents=True, exist_ok=True)

    def start(self, **how):
        lines = [f"mount --bind {self.root} {self.root}"]
        for source, path, read_only in self.mounts:
            lines.append(f"mount --bind {source} {self.root}{path}")
            if read_only:
                lines.append(f"mount -o remount,bind,ro {self.root}{path}")
        lines += [
            f"mount --rbind /dev {self.root}/dev",
            f"mount -t proc proc {self.root}/proc",
            f"mount -o remount,bind,ro {self.root}",
            f'exec chroot --userspec={USER}:{USER} {self.root} /usr/local/bin/hindcast "$@"',
        ]
        # exec keeps the process id: signals go to the server itself.
        command = ["unshare", "--mount", "sh", "-euc", "\n".join(lines), "sh", *self.box["args"]]
        environment = {one["name"]: one["value"] for one in self.box.get("env", [])}
        return subprocess.Popen(command, env={"PATH": os.environ["PATH"], **environment}, text=True, **how)


def wait_for(what, check, process, seconds=60):
    until = time.monotonic() + seconds
    while True:
        assert process.poll() is None, f"the server ended with {process.returncode} while waiting for {what}"
        try:
            if check():
                return
        except OSError:
            pass
        assert time.monotonic() < until, f"no {what} after {seconds} s"
        time.sleep(0.1)


def run(overlay, binary, work):
    (server,) = overlay.of("StatefulSet")
    spec = server["spec"]["template"]["spec"]
    claims = {one["metadata"]["name"] for one in server["spec"]["volumeClaimTemplates"]}
    secrets = Secrets(binary, [one["metadata"]["name"] for one in overlay.of("Service")])
    pod = Pod(overlay, spec, claims, secrets, binary, work)
    process = pod.start()
    try:
        ports = {port["name"]: port["containerPort"] for port in pod.box["ports"]}
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
            get = pod.box[probe]["httpGet"]
            url = f"http://127.0.0.1:{ports[get['port']]}{get['path']}"
            wait_for(f"{probe} at {url}", lambda: urllib.request.urlopen(url, timeout=5).status == 200, process)
            print(f"  {probe}: {get['path']} answers 200")
        for name, port in ports.items():
            wait_for(f"port {name}", lambda: socket.create_connection(("127.0.0.1", port), 5).close() is None, process)
        for monitor in overlay.of("ServiceMonitor"):
            for end in monitor["spec"]["endpoints"]:
                url = f"http://127.0.0.1:{ports[end['port']]}{end['path']}"
                text = urllib.request.urlopen(url, timeout=5).read().decode()
                assert "# TYPE hindcast_" in text, text[:200]
                print(f"  ServiceMonitor: {end['path']} has {text.count('# TYPE ')} metrics")
        for job in overlay.of("CronJob"):
            run_job(overlay, job, secrets, binary, work)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(spec["terminationGracePeriodSeconds"])
        assert code == 0, f"the server ended with {code}"
        print(f"  SIGTERM: ended with 0 after {time.monotonic() - began:.1f} s")
    finally:
        process.kill()
        process.wait()


def run_job(overlay, job, secrets, binary, work):
    spec = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    claims = {one["name"] for one in spec["volumes"] if "persistentVolumeClaim" in one}
    pod = Pod(overlay, spec, claims, secrets, binary, work)
    done = pod.start(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    told, _ = done.communicate(timeout=120)
    assert done.returncode == 0, f"{job['metadata']['name']} ended with {done.returncode}: {told}"
    files = [path for source, _, read_only in pod.mounts if not read_only for path in source.iterdir()]
    assert len(files) == 1 and files[0].stat().st_size > 0, files
    print(f"  {job['metadata']['name']}: {told.strip()}")


def raise_loopback():
    """A network namespace starts with its loopback interface down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        siocsifflags, iff_up = 0x8914, 1
        fcntl.ioctl(any_socket, siocsifflags, struct.pack("16sh", b"lo", iff_up))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, type=pathlib.Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.inside:
        os.execvp("unshare", ["unshare", "--mount", "--net", sys.executable, __file__, "--inside", "--binary", args.binary])
    raise_loopback()
    for name in OVERLAYS:
        overlay = Overlay(name)
        overlay.check()
        print(f"{name}: {len(overlay.objects)} objects are as Kubernetes {SCHEMA} has them")
        with tempfile.TemporaryDirectory() as work:
            os.chmod(work, 0o755)
            run(overlay, args.binary.resolve(), pathlib.Path(work))


if __name__ == "__main__":
    main()
