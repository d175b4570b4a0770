#!/bin/sh
# Makes the certificates of this folder anew. They are valid for a hundred years and secure nothing.
set -eu
cd "$(dirname "$0")"
new() { # NAME SUBJECT EXTENSION...
    name=$1 subject=$2
    shift 2
    arguments=""
    for extension in "$@"; do arguments="$arguments -addext $extension"; done
    # shellcheck disable=SC2086
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 \
        -subj "$subject" $arguments -keyout /dev/null -out "$name.pem"
}
new self-signed /CN=registry subjectAltName=DNS:registry.example.com,IP:127.0.0.1
new self-signed-for-clients /CN=registry subjectAltName=DNS:registry.example.com extendedKeyUsage=clientAuth
new self-signed-without-name /CN=registry.example.com
new authority /CN=authority
openssl x509 -in authority.pem -addtrust serverAuth -trustout -out authority-trusted.pem
