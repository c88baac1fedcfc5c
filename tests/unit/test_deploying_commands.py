"""Every command of `mlbuffet deploy`, word for word: what a person would type, and nothing that hangs or asks."""

from pathlib import Path

import pytest

from mlbuffet.deploying import commands, names
from mlbuffet.deploying.commands import Command


def words(text: str) -> Command:
    return tuple(text.split())


CASES = [
    (
        commands.build_image("inferrer", tag="1-a", base="python:x", version="1", commit="abc"),
        (
            "docker build --network=host --file=deploy/Dockerfile --target=inferrer --build-arg=SERVICE=inferrer "
            "--build-arg=BASE=python:x --label=org.opencontainers.image.title=MLBuffet "
            "--label=org.opencontainers.image.licenses=Apache-2.0 --label=org.opencontainers.image.version=1 "
            "--label=org.opencontainers.image.revision=abc --tag=mlbuffet/inferrer:1-a ."
        ),
    ),
    (
        commands.build_image("edge", tag="1", base="python:x", version="1", commit=""),
        (
            "docker build --network=host --file=deploy/edge/Dockerfile --build-arg=BASE=python:x "
            "--label=org.opencontainers.image.title=MLBuffet --label=org.opencontainers.image.licenses=Apache-2.0 "
            "--label=org.opencontainers.image.version=1 --tag=mlbuffet/edge:1 ."
        ),
    ),
    (
        commands.bootstrap(Path("/b"), "bookworm"),
        "debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm /b",
    ),
    (commands.trust_certificates(Path("/b")), "chroot /b update-ca-certificates"),
    (
        commands.pack(Path("/b")),
        "tar --directory=/b --exclude=./var/cache/apt/archives/*.deb --exclude=./var/lib/apt/lists/*_* --create .",
    ),
    (commands.init_swarm(""), "docker swarm init"),
    (commands.init_swarm("10.0.0.1"), "docker swarm init --advertise-addr=10.0.0.1"),
    (commands.label_node("n1"), "docker node update --label-add=mlbuffet.repository=true n1"),
    (
        commands.create_network(encrypted=False),
        "docker network create --driver=overlay --subnet=10.0.13.0/24 --attachable mlbuffet_overlay",
    ),
    (
        commands.create_network(encrypted=True),
        "docker network create --driver=overlay --subnet=10.0.13.0/24 --attachable --opt=encrypted mlbuffet_overlay",
    ),
    (commands.create_secret("mlbuffet_ca", {"a": "b"}), "docker secret create --label=a=b mlbuffet_ca -"),
    (commands.remove("secret", ["a", "b"]), "docker secret rm a b"),
    (
        commands.deploy_stack([Path("deploy/stack.yaml"), Path("deploy/tls.yaml")], detach=True),
        (
            "docker stack deploy --prune --resolve-image=never --detach=true --compose-file=deploy/stack.yaml "
            "--compose-file=deploy/tls.yaml mlbuffet"
        ),
    ),
    (
        commands.deploy_stack([Path("deploy/stack.yaml")], detach=False),
        "docker stack deploy --prune --resolve-image=never --compose-file=deploy/stack.yaml mlbuffet",
    ),
    (commands.remove_stack(), "docker stack rm mlbuffet"),
    (commands.scale("inferrer", 5), "docker service scale --detach mlbuffet_inferrer=5"),
    (
        commands.update_image("mirror", "2", "1"),
        (
            "docker service update --detach --no-resolve-image --image=mlbuffet/modelhost:2 "
            "--label-add=mlbuffet.previous=1 mlbuffet_mirror"
        ),
    ),
    (
        commands.update_image("inferrer", "1", ""),
        (
            "docker service update --detach --no-resolve-image --image=mlbuffet/inferrer:1 "
            "--label-rm=mlbuffet.previous mlbuffet_inferrer"
        ),
    ),
    (
        commands.replace_certificate("mirror", ["mlbuffet_ca", "mlbuffet_modelhost_cert", "mlbuffet_modelhost_key"], 2),
        (
            "docker service update --detach --no-resolve-image "
            "--secret-rm=mlbuffet_modelhost_cert --secret-rm=mlbuffet_modelhost_key "
            "--secret-add=source=mlbuffet_modelhost_cert_2,target=tls/cert.pem,uid=10001,mode=0400 "
            "--secret-add=source=mlbuffet_modelhost_key_2,target=tls/key.pem,uid=10001,mode=0400 mlbuffet_mirror"
        ),
    ),
    (
        commands.replace_certificate("trainer", ["mlbuffet_engine_ca", "mlbuffet_engine_key"], 2),
        (
            "docker service update --detach --no-resolve-image --secret-rm=mlbuffet_engine_key "
            "--secret-add=source=mlbuffet_trainer_cert_2,target=tls/cert.pem,uid=10001,mode=0400 "
            "--secret-add=source=mlbuffet_trainer_key_2,target=tls/key.pem,uid=10001,mode=0400 "
            "--secret-add=source=mlbuffet_engine_cert_2,target=engine/cert.pem,uid=10001,mode=0400 "
            "--secret-add=source=mlbuffet_engine_key_2,target=engine/key.pem,uid=10001,mode=0400 mlbuffet_trainer"
        ),
    ),
    (commands.list_tasks("edge"), "docker service ps --no-trunc --format={{json .}} mlbuffet_edge"),
    (commands.inspect("service", ["a", "b"]), "docker service inspect a b"),
]


@pytest.mark.parametrize(("command", "typed"), CASES, ids=[" ".join(command[:4]) for command, _ in CASES])
def test_a_command_is_what_one_would_type(command: Command, typed: str) -> None:
    assert tuple(" ".join(command).split()) == words(typed)


def test_import_keeps_its_setting_in_one_word() -> None:
    change = "--change=ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt"
    assert commands.import_image("python:x") == ("docker", "import", change, "-", "python:x")


def test_a_copy_of_the_repository_has_the_pointers_first() -> None:
    """What a pointer names was there before it, so that whatever is published meanwhile, the copy has it."""
    *words, script = commands.copy_repository("1")
    assert "--volume=mlbuffet_repository:/repository:ro" in words
    assert "--network=none" in words
    assert script.index("-name default") < script.index("--exclude='./*/default'")
    assert "--volume=mlbuffet_repository:/repository:rw" in commands.fill_repository("1")


def test_a_certificate_takes_the_place_of_the_one_before_whole_and_secret() -> None:
    *words, script = commands.put_certificate("1")
    assert "--volume=mlbuffet_tls:/tls" in words
    assert {"--network=none", "--user=10001", "mlbuffet/edge:1"} <= set(words)
    assert script.index("umask 277") < script.index("cat > .new") < script.index("mv -f .new edge.pem")


def test_the_stack_file_is_filled_in() -> None:
    first = {"MLBUFFET_TAG": "2", "MLBUFFET_EDGE_TAG": "1", "MLBUFFET_CERTIFICATES": "", "MLBUFFET_ENGINES": "tcp://a"}
    assert commands.stack_environment("2", "1", 1, "tcp://a") == first
    assert commands.stack_environment("2", "1", 3, "")["MLBUFFET_CERTIFICATES"] == "_3"


def test_generations_of_certificates_are_told_by_their_names() -> None:
    first, second = names.certificate_names(1), names.certificate_names(2)
    assert first == [f"mlbuffet_{role}_{part}" for role in names.ROLES for part in ("cert", "key")]
    assert names.newest_generation([]) == 0
    assert names.newest_generation([*first, *second]) == 2
    assert names.newest_generation([*first, *second[1:]]) == 1, "one that was broken off does not count"
    assert names.generations([*first, second[0], "mlbuffet_edge", "others_modelhost_key"]) == [1, 2]


@pytest.mark.parametrize(
    "name",
    [
        "mlbuffet_ca",
        "mlbuffet_engine_ca",
        "mlbuffet_engine_cert_2",
        "mlbuffet_trainer_api_key",
        "mlbuffet_key_hash",
        "mlbuffet_metrics_api_key",
        "mlbuffet_inferrer_key_12",
    ],
)
def test_what_this_program_made_is_known_by_its_name(name: str) -> None:
    assert names.is_ours(name)


@pytest.mark.parametrize("name", ["mlbuffet_edge", "mlbuffet_cat", "my_mlbuffet_ca", "mlbuffet_inferrer_key_0"])
def test_what_others_made_is_left_alone(name: str) -> None:
    assert not names.is_ours(name)


@pytest.mark.parametrize("reference", ["mlbuffet/edge:1-a", f"mlbuffet/edge:1-a@sha256:{'0' * 64}", "host:5000/e:1-a"])
def test_a_tag_is_found_in_a_reference(reference: str) -> None:
    assert names.tag_of(reference) == "1-a"
