#!/usr/bin/env bash
# Installs the corepress of this checkout into a new environment, and leaves a link "python" in the folder that is named:
#     install.sh FOLDER
# VERIFY=true in the environment installs PyTorch, too.
set -euo pipefail
folder=$1
sources=$(cd "$(dirname "$0")/.." && pwd)

python=$(command -v python3 || command -v python)
"$python" -m venv "$folder"
bin=$folder/bin
test -d "$bin" || bin=$folder/Scripts # Windows
if [ "${VERIFY:-true}" = true ]; then
    # On Linux PyPI has PyTorch with CUDA, of several GB; a runner has no use for it.
    if [ "$(uname -s)" = Linux ]; then
        "$bin/python" -m pip install --quiet --index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" torch
    fi
    "$bin/python" -m pip install --quiet "$sources[torch,images]"
else
    "$bin/python" -m pip install --quiet "$sources"
fi
printf '#!/usr/bin/env bash\nexec "%s/python" "$@"\n' "$bin" > "$folder/python"
chmod +x "$folder/python"
