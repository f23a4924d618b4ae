// How the operators were built, for `python -m distgan.ops`. Not an operator, hence pybind11.

#include <pybind11/pybind11.h>

PYBIND11_MODULE(build_info, module) {
    module.doc() = "How the compiled operators were built.";
    module.attr("compiler") = DISTGAN_COMPILER;
    module.attr("torch") = DISTGAN_TORCH;
    module.attr("nvcc") = DISTGAN_NVCC;                    // empty: no nvcc was there
    module.attr("architectures") = DISTGAN_ARCHITECTURES;  // such as "8.0 9.0 12.0+PTX"
}
