import asyncio, time
from tests.e2e.network.streams import *
from redoma_provisioner.network.drivers.embedded.admin import EnvoyAdmin
from redoma_provisioner.network.drivers.embedded.tunnel_count import EgressTunnels
import pytest
@pytest.mark.timeout(400)
async def test_x(van, calls):
    adm=EgressTunnels(EnvoyAdmin(van.public.egress_admin)); gad=EnvoyAdmin(van.a.folder/"gateway-admin.sock")
    for cut in (8,8.3,15,17.7,8.5,20,15.2,2.2,4,5.5):
        van.network.cut(); await asyncio.sleep(cut); van.network.restore(); t=time.monotonic(); log=[]; prev=None; first=None
        while time.monotonic()-t<6 and not first:
            a=await ask(calls,van.pki,van.a.model_key,1.0)
            s=await adm.by_site(); g={k.split("egress.")[-1]:v for k,v in (await gad.stats(r"tunnels.worker_0.cluster.egress")).items() if v}
            st=(a.code.name,str(s),str(g))
            if st!=prev: log.append((round(time.monotonic()-t,2),st,round(a.took_s,2))); prev=st
            if a.ok: first=time.monotonic()-t
            await asyncio.sleep(.02)
        print("CUT",cut,"first",first); 
        for l in log: print("   ",l)
        await asyncio.sleep(2)
