// The emulator's settings and counters, for the tests. Not an operator, hence pybind11.

#include <pybind11/pybind11.h>

#include "cuda.h"

PYBIND11_MODULE(distgan_emulator, module) {
    using namespace distgan::emulator;
    module.doc() = "Importing this registers the emulated operators as torch.ops.distgan_emulated.";
    module.def(
        "run_reversed", [](bool reversed) { settings.reversed = reversed; },
        "Run blocks and threads from the last to the first.");
    module.def(
        "counters",
        [] {
            pybind11::dict counts;
            counts["launches"] = counters.launches;
            counts["blocks"] = counters.blocks;
            counts["barriers"] = counters.barriers;
            return counts;
        },
        "Launches, blocks and barriers since the last `reset`.");
    module.def("reset", [] { counters = {}; });
}
