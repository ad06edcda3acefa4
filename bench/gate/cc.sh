#!/bin/sh
# The C compiler of `make checked`: `CC="sh cc.sh" REAL_CC=gcc`. It compiles once what mypyc's files include:
# to parse that takes as long as all the rest of most of them.
real=${REAL_CC:-cc}

for argument; do
  case $argument in
    */native_*.c) ;;  # ours: other flags, and macros before what it includes
    */__native_*.c) source=$argument folder=${argument%/*} headers=__native_ ;;
    */canaryproxy/*.c) source=$argument folder=${argument%/canaryproxy/*} headers= ;;
  esac
done
[ -n "${source-}" ] || exec $real "$@"

first=$folder/first${headers}.h
if ! [ -e "$first.gch" ]; then
  echo '#include <Python.h>' >"$first"
  if [ -n "$headers" ]; then
    for header in "$folder"/__native_[!i]*.h "$folder"/__native_internal_*.h; do
      echo "#include \"$header\"" >>"$first"
    done
  fi
  (
    for argument; do
      shift
      case $argument in
        "$source") argument=$first ;;
        *.o) argument=$first.gch ;;
      esac
      set -- "$@" "$argument"
    done
    exec $real -x c-header "$@"
  ) || rm -f "$first.gch"  # without it the text is included
fi
exec $real -include "$first" "$@"
