#!/usr/bin/env bash
# The fuzz of the AVX-512 kernels where no processor has AVX-512: Bochs emulates one, and a Linux kernel whose only program
# is the fuzz. QEMU's emulation has no AVX-512. A start takes minutes.
#
#   tests/native/avx512_in_bochs.sh VMLINUZ [SEED] [CASES] [float|double|Bfloat16|Float16]
#
# VMLINUZ: a kernel with a serial console (Debian: linux-image-cloud-amd64). Needs bochs with EVEX, g++, cpio, grub-mkrescue
# (Debian: bochs bochs-term cpio grub-pc-bin grub-common xorriso mtools) and, to make a device, root.
set -euo pipefail

vmlinuz=$(realpath "$1") seed=${2:-1} cases=${3:-150} number=${4:-float}
format=(-DJAXCONV_REAL="$number")
[[ $number != *16 ]] || format=(-DJAXCONV_REAL=float -DJAXCONV_STORED="$number")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$here/../../jaxconv/lowering/cpu/source
work=$(mktemp -d)
trap 'kill -9 $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
mkdir -p disc/boot/grub files/dev
g++ -static -std=c++17 -O2 -pthread -ffp-contract=fast -fno-math-errno -mavx512f -mfma -mf16c -DJAXCONV_ISA=avx512 \
  -DJAXCONV_NAME=kernels_avx512 "${format[@]}" -I"$source" "$source/kernels.cc" "$source/scratch.cc" \
  "$here/fuzz.cc" -o files/init
mknod files/dev/console c 5 1
(cd files && find . | cpio -o -H newc --quiet) | gzip >disc/boot/initrd
cp "$vmlinuz" disc/boot/vmlinuz
# Bochs tells the size of compacted register states wrongly, for which Linux would switch all of AVX off.
cat >disc/boot/grub/grub.cfg <<EOF
set timeout=0
linux /boot/vmlinuz console=ttyS0 clearcpuid=xsaves,xsavec mitigations=off tsc=reliable lpj=1000000 -- $seed $cases
initrd /boot/initrd
boot
EOF
grub-mkrescue -o disc.iso disc 2>/dev/null
cat >bochsrc <<EOF
cpu: model=corei7_skylake_x, ips=100000000
memory: guest=512, host=512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial.txt
display_library: rfb, options="timeout=0"
log: bochs.log
EOF
echo c >commands # for the debugger that Debian's Bochs stops in
bochs -q -f bochsrc -rc commands >bochs.txt 2>&1 &
# The fuzz ends as the first process may not, and the kernel says with which status.
until grep -aqs "Attempted to kill init" serial.txt; do
  kill -0 $! 2>/dev/null || { tail bochs.txt bochs.log; exit 1; }
  sleep 2
done
sleep 2
grep -a -A2 "Run /init" serial.txt
grep -aq "exitcode=0x00000000" serial.txt
