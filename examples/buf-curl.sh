#!/usr/bin/env bash
# A session with `buf curl`, which asks the server for its schema (reflection): adapt to a folder of
# class folders, predict, delete, and an error. Above each call is grpcurl's spelling.
#
#     examples/buf-curl.sh FOLDER PICTURE [HOST:PORT]
#
# KSHOT_CA, a file of certificates, turns TLS on; KSHOT_API_KEY is sent if it is set.
set -euo pipefail

if (($# < 2 || $# > 3)); then
    echo "usage: buf-curl.sh FOLDER PICTURE [HOST:PORT]" >&2
    exit 2
fi
folder=$1 picture=$2 server=${3:-${KSHOT_SERVER:-127.0.0.1:50051}}

for file in "$picture" ${KSHOT_CA:+"$KSHOT_CA"}; do
    [[ -f $file ]] || { echo "$file: no such file" >&2; exit 1; }
done

url=http://$server options=(--protocol grpc)
if [[ -n ${KSHOT_CA:-} ]]; then # grpcurl: -cacert FILE in place of -plaintext
    url=https://$server options+=(--cacert "$KSHOT_CA")
else
    options+=(--http2-prior-knowledge)
fi
if [[ -n ${KSHOT_API_KEY:-} ]]; then # grpcurl: -expand-headers -H 'authorization: Bearer ${KSHOT_API_KEY}'
    if [[ -z ${KSHOT_CA:-} && ! $server =~ ^(localhost|127(\.[0-9]+){3}|\[::1\]):[0-9]+$ ]]; then
        echo "a key goes over TLS or to this machine alone; set KSHOT_CA" >&2
        exit 1
    fi
    # Processes of other users can read a command line, but not this file.
    headers=$(mktemp)
    trap 'rm -f "$headers"' EXIT
    printf 'authorization: Bearer %s\n' "$KSHOT_API_KEY" >"$headers"
    options+=(--header "@$headers" --reflect-header '*')
fi

# call METHOD < REQUEST
call() {
    # grpcurl -plaintext -d @ HOST:PORT kshot.v1.AdaptationService/METHOD < REQUEST
    buf curl "${options[@]}" --data @- "$url/kshot.v1.AdaptationService/$1"
}

# field NAME: the first text of that name in the answer.
field() {
    sed -nE "s/.*\"$1\": *\"([^\"]*)\".*/\1/p" | head -n 1
}

# join WORD...: the words with commas between.
join() {
    local IFS=,
    echo "$*"
}

shopt -s nullglob
names=() indices=() items=()
for class in "$folder"/*/; do
    files=("$class"*.png)
    ((${#files[@]})) || continue
    name=$(basename "$class")
    name=${name//\\/\\\\}
    names+=("\"${name//\"/\\\"}\"")
    for file in "${files[@]}"; do
        items+=("\"$(base64 <"$file" | tr -d '\n')\"")
        indices+=("$((${#names[@]} - 1))")
    done
done

# grpcurl -plaintext HOST:PORT list kshot.v1.AdaptationService
buf curl "${options[@]}" --list-methods "$url"

adapted=$(call Adapt <<EOF
{"model": "drawings", "support_set": {
  "images": {"encoded": {"items": [$(join "${items[@]}")]}},
  "class_indices": [$(join "${indices[@]}")], "class_names": [$(join "${names[@]}")]}}
EOF
)
id=$(field id <<<"$adapted")
echo "adapted $id"

answer=$(call Predict <<EOF
{"adapted_model": "$id",
 "queries": {"encoded": {"items": ["$(base64 <"$picture" | tr -d '\n')"]}}}
EOF
)
echo "predicted $(field className <<<"$answer")"

call DeleteAdaptedModel <<<"{\"adapted_model\": \"$id\"}"

# An error has a code, a message and details; the exit code is 8 times the code.
if call GetAdaptedModel <<<"{\"adapted_model\": \"$id\"}"; then
    echo "expected NOT_FOUND, got an answer" >&2
    exit 1
fi
