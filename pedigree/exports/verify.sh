#!/bin/sh
# Verifies this export:  sh verify.sh KEY.pem [MODEL_FOLDER]
#
# KEY.pem is the public ed25519 key (PEM) that you trust, from anywhere but this folder: a key that
# came with an export proves nothing. With MODEL_FOLDER, the model's files are compared as well.
# Needs openssl 3.0 or later, sha256sum and a POSIX shell; writes nothing, asks no network.
# Exit status: 0 all of it holds, 1 something does not, 2 called wrongly.
#
# A script that came with what it verifies can lie. This one is the same for every export: compare it
# with the copy in Pedigree's own package, or put that copy here instead; it must then still pass.
set -eu
export LC_ALL=C
fail() {
    printf 'FAILED: %s\n' "$1" >&2
    false # ends the script by `set -e`, and the next line does where an edit took out that
    exit 1
}

[ $# -eq 1 ] || [ $# -eq 2 ] || {
    printf 'usage: sh verify.sh KEY.pem [MODEL_FOLDER]\n' >&2
    exit 2
}
key=$1 model=${2-}
case $key in -*) key=./$key ;; esac
[ -f "$key" ] || {
    printf 'There is no file %s: give the public key that you trust.\n' "$key" >&2
    exit 2
}
here=${0%/*}
[ "$here" != "$0" ] || here=.
case $here in -*) here=./$here ;; esac

# 1. The signature: ed25519 over the pre-authentication encoding of a DSSE envelope.
kind=application/vnd.in-toto+json
message=$here/export.message
openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in "$message" \
    -sigfile "$here/export.signature" >/dev/null 2>&1 ||
    fail "this key did not sign the list of files (or openssl is missing or older than 3.0)"

# 2. The list: the subjects of the signed statement, which is one line of canonical JSON.
IFS= read -r signed <"$message" || :
payload=${signed#"DSSEv1 28 $kind "}
length=${payload%% *}
payload=${payload#* }
[ "$signed" = "DSSEv1 28 $kind $length $payload" ] && [ "${#payload}" = "$length" ] ||
    fail "export.message is not the encoding of a statement"
about='"predicateType":"urn:pedigree:predicate:export:v1","subject":['
case $payload in
*"$about"*']}') ;;
*) fail "what was signed is a statement, but not about an export" ;;
esac
subject=${payload#*'"model":{"digest":{"sha256":"'}
subject=${subject%%'"'*}
case $subject in
'' | *[!0-9a-f]*) fail "the signed list names no model" ;;
esac
rest=${payload##*"$about"}
rest=${rest%']}'}

# 3. The envelope says the same: other tools read that file.
text=$(printf %s "$payload" | openssl base64 -A)
sig=$(openssl base64 -A -in "$here/export.signature")
keyid=$(openssl pkey -pubin -in "$key" -outform DER | sha256sum) || fail "sha256sum is missing"
keyid=${keyid%% *}
envelope='{"payload":"'$text'","payloadType":"'$kind'","signatures":[{"keyid":"'$keyid'","sig":"'$sig'"}]}'
wanted=$(printf %s "$envelope" | sha256sum)
found=$(sha256sum <"$here/export.dsse.json") || fail "export.dsse.json is missing"
[ -n "$found" ] && [ "$found" = "$wanted" ] ||
    fail "export.dsse.json is not the envelope of what was signed"

# 4. Every file in the list.
open='{"digest":{"sha256":"'
middle='"},"name":"'
known=/export.dsse.json/export.message/export.signature/
list=
count=0
while [ -n "$rest" ]; do
    digest=${rest#"$open"}
    digest=${digest%%'"'*}
    name=${rest#"$open$digest$middle"}
    name=${name%%'"'*}
    entry=$open$digest$middle$name'"}'
    case $rest in
    "$entry") rest= ;;
    "$entry,"*) rest=${rest#"$entry,"} ;;
    *) fail "the signed list of files cannot be read" ;;
    esac
    case $name in
    '' | .* | *[!a-z0-9.-]*) fail "the signed list has a file with a name that no export has" ;;
    esac
    [ -f "$here/$name" ] && [ ! -L "$here/$name" ] || fail "$name is missing"
    found=$(sha256sum <"$here/$name") || fail "$name cannot be read"
    [ "${found%% *}" = "$digest" ] || fail "$name was changed"
    known=$known$name/
    list="$list$digest  $name
"
    count=$((count + 1))
done
# Once more, by sha256sum itself: one edit of this script must not be enough to hide another.
(cd "$here" && printf %s "$list" | sha256sum -c -) >/dev/null 2>&1 || fail "a file was changed"

# 5. Nothing else.
for path in "$here"/* "$here"/.[!.]* "$here"/..?*; do
    [ -e "$path" ] || [ -L "$path" ] || continue
    case $known in
    */"${path##*/}"/*) [ ! -L "$path" ] || fail "${path##*/} is a link" ;;
    *) fail "${path##*/} is not in the signed list" ;;
    esac
done
printf 'OK: %s files about model sha256:%s are as the owner of key %s signed them.\n' \
    "$count" "$subject" "$keyid"

# 6. The model, where it was given: its files, and nothing else.
if [ -z "$model" ]; then
    printf 'The model itself was not looked at: give its folder as the second argument.\n'
    exit 0
fi
case $model in -*) model=./$model ;; esac
[ -d "$model" ] || fail "there is no folder $model"
newline='
'
listed=$newline
while read -r digest name; do
    listed=$listed$name$newline
done <"$here/model.sha256"
walk() {
    for path in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        [ -e "$path" ] || [ -L "$path" ] || continue
        [ ! -L "$path" ] || fail "the model has a link, $2${path##*/}"
        if [ -d "$path" ]; then
            walk "$path" "$2${path##*/}/"
            continue
        fi
        case $listed in
        *"$newline$2${path##*/}$newline"*) ;;
        *) fail "the model has a file that is not in model.sha256, $2${path##*/}" ;;
        esac
    done
}
walk "$model" ''
(cd "$model" && sha256sum -c -) <"$here/model.sha256" >/dev/null || fail "the model was changed"
printf 'OK: the files in %s are the model.\n' "$model"
