# Short names for the project's commands: https://just.systems. CI runs the same ones.

# List the recipes
default:
    @just --list

# Run the tests with whatever real programs are there, or only those whose name contains PATTERN
test PATTERN="":
    cargo xtask test {{ if PATTERN == "" { "" } else { "--only " + quote(PATTERN) } }}

# Install what the tests use, then run them all; none may skip
test-all:
    cargo xtask test --install

# Show it: Traefik, Modelgate and two simulated servers (`just demo --docker` for containers)
demo *OPTIONS:
    cargo xtask demo {{ OPTIONS }}

# Save each page of the dashboard under target/screenshots: light, dark, and as on a phone
screenshots:
    cargo xtask screenshots --install

# Build the book into target/book/html, and check its links
book:
    cargo xtask book --install

# Build the program as it is shipped (ten minutes), and measure its size, start and memory
shipped:
    cargo xtask shipped --install

# Make a Debian package of PROGRAM, which `just shipped` has built, and check it
package PROGRAM:
    cargo xtask package --install --program {{ PROGRAM }}

# Search for inputs that TARGET reads wrongly, for SECONDS (`just fuzz list` prints the targets; docs/fuzzing.md)
fuzz TARGET SECONDS="60":
    cargo xtask fuzz {{ TARGET }} --seconds {{ SECONDS }}

# Change the code of the core, or of CRATE, in small ways, and say which changes no test notices (docs/fuzzing.md)
mutants CRATE="":
    cargo xtask mutants --install {{ CRATE }}

# The same for the lines that have changed, a sample of them, in three minutes, as CI does
mutants-of-change:
    cargo xtask mutants --of-change --install

# Compile everything, quickly
check:
    cargo check --workspace --all-targets

# Formatting, lints, names, imports, documentation, the book, dependencies, Dockerfile
lint:
    cargo xtask lint --install

# Everything that CI does
ci:
    .ci/run
