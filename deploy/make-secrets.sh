#!/bin/sh
# Makes what compose.yaml takes from secrets/: passwords, keys, and the URLs that hold them. Run it once. What is there
# stays as it is: a new secret_key would open nothing that the old one sealed, a new password no database that has one.
set -eu
cd "$(dirname "$0")"

umask 077
mkdir -p secrets
# Docker mounts each file into containers whose users are not yours, so the files can be read by all; the folder above
# them is what keeps others of this machine out.
chmod 700 secrets

random() { head -c "$1" /dev/urandom | od -An -tx1 | tr -d ' \n'; }

# put NAME: keeps standard input as secrets/NAME, unless there is one.
put() {
    if [ -s "secrets/$1" ]; then cat >/dev/null; return; fi
    cat >"secrets/$1.new"
    chmod 644 "secrets/$1.new"
    # Whole or not at all: half a key would be taken for one.
    mv "secrets/$1.new" "secrets/$1"
    echo "secrets/$1"
}

random 24 | put postgres_password
random 24 | put redis_password
random 24 | put rabbitmq_password
printf 'postgresql://comfyline:%s@postgres/comfyline\n' "$(cat secrets/postgres_password)" | put database_url
printf 'redis://:%s@redis:6379/0\n' "$(cat secrets/redis_password)" | put redis_url
printf 'amqp://comfyline:%s@rabbitmq:5672/comfyline\n' "$(cat secrets/rabbitmq_password)" | put rabbitmq_url
printf 'requirepass %s\nappendonly yes\nmaxmemory-policy noeviction\ndir /data\n' \
    "$(cat secrets/redis_password)" | put redis_conf
printf 'default_user = comfyline\ndefault_pass = %s\ndefault_vhost = comfyline\n' \
    "$(cat secrets/rabbitmq_password)" | put rabbitmq_conf
# Base64 of 32 random bytes. Keep a copy of this one apart from the backups of the ledger, which it opens.
head -c 32 /dev/urandom | base64 | put secret_key
random 24 | put api_keys
printf 'operator:%s\n' "$(random 12)" | put flower_basic_auth
