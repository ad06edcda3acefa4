#!/bin/sh
# Build the image, or pin its base. Needs docker with buildx, or docker and skopeo.
#   config/image/build.sh build NAME    the image NAME:VERSION, on the digest that the base's tag has now
#   config/image/build.sh pin           write that digest into the Dockerfile
set -eu
cd "$(dirname "$0")/../.."

base=$(sed -n 's/^ARG BASE=//p' Dockerfile)

digest_of() {
    if command -v skopeo >/dev/null; then
        skopeo inspect --format '{{.Digest}}' "docker://$1"
    else
        docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$1"
    fi
}

pinned() {
    digest=$(digest_of "${base%@*}")
    case $digest in
    sha256:????????????????????????????????????????????????????????????????) ;;
    *)
        echo "build.sh: no digest is known for ${base%@*}" >&2
        exit 1
        ;;
    esac
    echo "${base%@*}@$digest"
}

case ${1-} in
pin)
    with=$(pinned)
    sed -i "s|^ARG BASE=.*|ARG BASE=$with|" Dockerfile
    echo "Dockerfile: $with"
    ;;
build)
    case $base in
    *@sha256:*) with=$base ;;
    *) with=$(pinned) ;;
    esac
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' canaryproxy/__init__.py)
    exec docker build --tag "$2:$version" \
        --build-arg "BASE=$with" \
        --build-arg "VERSION=$version" \
        --build-arg "REVISION=$(git rev-parse HEAD)" \
        --build-arg "SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)" .
    ;;
*)
    echo "usage: build.sh build NAME | pin" >&2
    exit 2
    ;;
esac
