//! Compiles the kernels and the fake driver into `libcuda.so.1` and `libnvidia-ml.so.1`, below
//! `OUT_DIR`. Linux only; where there is no C++ compiler, the library says so when asked.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rustc-check-cfg=cfg(fake_cuda)");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return no("the fake CUDA driver is for Linux only");
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let kernels = root.join("../../kernels/cuda");
    let driver = root.join("src/driver");
    println!("cargo::rerun-if-changed={}", kernels.display());
    println!("cargo::rerun-if-changed={}", driver.display());
    println!("cargo::rerun-if-env-changed=CXX");

    let mut sources = with_extension(&kernels, "cu");
    sources.extend(with_extension(&driver, "cu"));
    sources.extend(with_extension(&driver, "cpp"));
    sources.retain(|source| !source.ends_with("nvml.cpp"));

    let dir = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")).join("libraries");
    let objects = dir.join("../objects");
    fs::create_dir_all(&dir).expect("OUT_DIR can be written");
    fs::create_dir_all(&objects).expect("OUT_DIR can be written");

    let compiler = cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .pic(true)
        .warnings(false)
        .cargo_metadata(false)
        .try_get_compiler();
    let Ok(compiler) = compiler else {
        return no("there is no C++ compiler for the fake CUDA driver");
    };
    if compiler.to_command().arg("--version").output().is_err() {
        return no("there is no C++ compiler for the fake CUDA driver");
    }

    // Two at a time, as the machines this is built on have two cores at least.
    let compile = |source: &Path| -> (PathBuf, Command) {
        let name = source.file_name().expect("a file").to_string_lossy();
        let object = objects.join(format!("{name}.o"));
        let mut command = compiler.to_command();
        command
            .args(["-x", "c++", "-DOCTET_HOST", "-fvisibility=hidden"])
            // Kernels reinterpret memory and overflow integers as CUDA lets them.
            .args(["-fno-strict-aliasing", "-fwrapv", "-ffp-contract=off"])
            .arg("-I")
            .arg(&kernels)
            .arg("-c")
            .arg(source)
            .arg("-o")
            .arg(&object);
        if source.extension().is_some_and(|e| e == "cu") {
            // A GPU refuses misaligned loads.
            command.args([
                "-fsanitize=alignment,bounds",
                "-fsanitize-undefined-trap-on-error",
            ]);
        }
        (object, command)
    };
    let mut linked = Vec::new();
    for pair in sources.chunks(2) {
        let running: Vec<_> = pair
            .iter()
            .map(|source| {
                let (object, mut command) = compile(source);
                linked.push(object);
                (
                    source,
                    command.spawn().expect("the compiler was run before"),
                )
            })
            .collect();
        for (source, mut child) in running {
            let status = child.wait().expect("it is a child of this process");
            assert!(status.success(), "{} does not compile", source.display());
        }
    }

    let link = |name: &str, args: &[&Path], needs: &[&str]| {
        let mut command = compiler.to_command();
        command
            .args(["-shared", "-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed"])
            .arg(format!("-Wl,-soname,{name}"))
            .args(args)
            .arg("-L")
            .arg(&dir)
            .args(needs.iter().map(|n| format!("-l:{n}")))
            .arg("-lpthread")
            .arg("-o")
            .arg(dir.join(name));
        let status = command.status().expect("the compiler was run before");
        assert!(status.success(), "{name} does not link");
    };
    let linked: Vec<&Path> = linked.iter().map(PathBuf::as_path).collect();
    link("libcuda.so.1", &linked, &[]);
    // The name that is tried first; without it a real driver of this machine would come before.
    link("libcuda.so", &[], &["libcuda.so.1"]);
    let (nvml, mut command) = compile(&driver.join("nvml.cpp"));
    let status = command.status().expect("the compiler was run before");
    assert!(status.success(), "nvml.cpp does not compile");
    link("libnvidia-ml.so.1", &[&nvml], &["libcuda.so.1"]);

    println!("cargo::rustc-cfg=fake_cuda");
    println!("cargo::rustc-env=OCTET_FAKE_CUDA_DIR={}", dir.display());
}

fn no(why: &str) {
    println!("cargo::rustc-env=OCTET_FAKE_CUDA_WHY_NOT={why}");
}

fn with_extension(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.expect("a folder that can be listed").path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    found
}
